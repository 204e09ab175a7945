"""One running service and one browser for all pages; a context of its own, and no errors, for each test.

Of the package's scope and no wider: Playwright keeps an event loop running in the main thread until it ends, and a test
elsewhere that starts a loop of its own would be refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from openai import OpenAI
from playwright.sync_api import Browser, Page

from tests.dashboard.browser import DESKTOP, chromium, sign_in
from tests.live import BASE, Live, tiny_service, wait_until_ended

FEW = "\n".join(
    json.dumps({"messages": [{"role": "user", "content": f"order {n}?"}, {"role": "assistant", "content": "today"}]})
    for n in range(64)
)


PROMPTS = ("order 3?", "order 64?")


def create(client: OpenAI, name: str, epochs: int, **ours: object) -> str:
    """A job's id; `ours`: of its `attune` object."""
    file = client.files.create(file=(f"{name}.jsonl", FEW.encode()), purpose="fine-tune")
    method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": epochs, "batch_size": 8}}}
    job = client.fine_tuning.jobs.create(
        model=BASE,
        training_file=file.id,
        suffix=name,
        method=method,  # pyright: ignore[reportArgumentType]
        extra_body={"attune": ours},
    )
    return job.id


@dataclass(frozen=True)
class Trained:
    """Two small jobs that are over, of ranks 4 and 8, with their models; and a checkpoint that nobody needs. The second
    had PROMPTS answered at each of its checkpoints.
    """

    jobs: tuple[str, str]
    models: tuple[str, str]
    checkpoint: str


@pytest.fixture(scope="package")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with tiny_service(tmp_path_factory.mktemp("live"), {"ATTUNE_WEBHOOK_ALLOW": "127.0.0.1"}) as service:
        yield service


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """Fails the test whose page raised an error or was refused something by the content security policy."""
    context = browser.new_context(viewport=DESKTOP, reduced_motion="reduce")
    opened = context.new_page()
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda told: problems.append(told.text) if "Content Security Policy" in told.text else None)
    yield opened
    context.close()
    assert not problems


@pytest.fixture
def signed_in(page: Page, live: Live) -> Page:
    sign_in(page, live.address, live.key)
    return page


@pytest.fixture(scope="package")
def trained(live: Live) -> Trained:
    client = live.client()
    jobs = [
        create(client, "first", 1, lora={"rank": 4}),
        create(client, "second", 2, lora={"rank": 8}, sample_prompts=PROMPTS),  # a checkpoint after each epoch
    ]
    models = [wait_until_ended(client, job_id).fine_tuned_model for job_id in jobs]
    checkpoints = client.fine_tuning.jobs.checkpoints.list(jobs[1]).data
    spare = next(one for one in checkpoints if one.fine_tuned_model_checkpoint not in models)
    return Trained((jobs[0], jobs[1]), (str(models[0]), str(models[1])), spare.fine_tuned_model_checkpoint)
