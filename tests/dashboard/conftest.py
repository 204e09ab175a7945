"""One running service and one browser for all pages; a context of its own, and no errors, for each test.

Of the package's scope and no wider: Playwright keeps an event loop running in the main thread until it ends, and a test
elsewhere that starts a loop of its own would be refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import Browser, Page

from tests.dashboard.browser import DESKTOP, chromium, sign_in
from tests.engine.tiny_base import make_base
from tests.live import BASE, Live, live_service, wait_until_ended

FEW = "\n".join(
    json.dumps({"messages": [{"role": "user", "content": f"order {n}?"}, {"role": "assistant", "content": "today"}]})
    for n in range(64)
)


@dataclass(frozen=True)
class Trained:
    """Two small jobs that are over, of ranks 4 and 8, with their models; and a checkpoint that nobody needs."""

    jobs: tuple[str, str]
    models: tuple[str, str]
    checkpoint: str


@pytest.fixture(scope="package")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    base = make_base(tmp_path_factory.mktemp("base") / BASE)
    environment = {
        "ATTUNE_SNAPSHOT_INTERVAL_S": "1",
        "ATTUNE_BEAT_S": "1",
        "ATTUNE_LEASE_S": "10",
        "ATTUNE_WEBHOOK_ALLOW": "127.0.0.1",
    }
    with live_service(tmp_path_factory.mktemp("data"), base, environment) as service:
        service.wait_for_worker()
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
    jobs: list[str] = []
    for name, rank, epochs in (("first", 4, 1), ("second", 8, 2)):  # the second epoch leaves a checkpoint behind
        method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": epochs, "batch_size": 8}}}
        file = client.files.create(file=(f"{name}.jsonl", FEW.encode()), purpose="fine-tune")
        ours = {"attune": {"lora": {"rank": rank}}}
        job = client.fine_tuning.jobs.create(
            model=BASE,
            training_file=file.id,
            suffix=name,
            method=method,
            extra_body=ours,  # pyright: ignore[reportArgumentType]
        )
        jobs.append(job.id)
    models = [wait_until_ended(client, job_id).fine_tuned_model for job_id in jobs]
    checkpoints = client.fine_tuning.jobs.checkpoints.list(jobs[1]).data
    spare = next(one for one in checkpoints if one.fine_tuned_model_checkpoint not in models)
    return Trained((jobs[0], jobs[1]), (str(models[0]), str(models[1])), spare.fine_tuned_model_checkpoint)
