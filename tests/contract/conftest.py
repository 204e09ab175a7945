"""The service under test: the one that ATTUNE_URL and ATTUNE_API_KEY (an operator's) name, or one started here."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

from tests.contract.place import BASE, LORA, Project, choices, examples, new_project, upload, wait_until


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: trains more than once; left to `make test-clients`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Among all other tests the suite runs in short: tests/e2e trains, pauses and chats with the same client."""
    if "ATTUNE_URL" in os.environ:
        return
    left_out = [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """(address, operator's key)."""
    if "ATTUNE_URL" in os.environ:
        yield os.environ["ATTUNE_URL"], os.environ["ATTUNE_API_KEY"]
        return
    from tests.contract.service import contract_service  # not above: it needs what a client's environment lacks

    with contract_service(tmp_path_factory.mktemp("contract")) as live:
        yield live.address, live.key


@pytest.fixture(scope="session")
def project(service: tuple[str, str]) -> Project:
    return new_project(*service, "contract")


@pytest.fixture
def fresh(service: tuple[str, str]) -> Project:
    """A project that nothing is in."""
    return new_project(*service, "fresh")


@pytest.fixture(scope="session")
def operator(service: tuple[str, str]) -> OpenAI:
    url, key = service
    return OpenAI(base_url=f"{url}/v1", api_key=key)


@pytest.fixture(scope="session")
def client(project: Project) -> OpenAI:
    return project.client()


@pytest.fixture(scope="session")
def training_file(client: OpenAI) -> str:
    return upload(client, examples(64))


@pytest.fixture(scope="session")
def trained(client: OpenAI, training_file: str) -> FineTuningJob:
    """A job that succeeded: three epochs, so three checkpoints, and everything else left to the service."""
    validation = upload(client, examples(16), "validation.jsonl")
    job = client.fine_tuning.jobs.create(
        model=BASE,
        training_file=training_file,
        validation_file=validation,
        suffix="contract",
        seed=1,
        method=choices(3, batch_size=8),
        extra_body=LORA,
    )
    job = wait_until(client, job.id)
    assert job.status == "succeeded", job.error
    return job
