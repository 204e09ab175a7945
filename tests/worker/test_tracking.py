"""A job's integrations from the worker's side: what fails, or hangs, is a warning and nothing more."""

from __future__ import annotations

import importlib.util
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, update

from core import claims, job_files, migrate
from core.db import Database, open_database
from core.models import BaseModelRow, Job, JobEvent
from core.protocol import Step
from core.settings import Settings
from core.storage import open_storage
from tests.api.place import RESOLVED
from tests.core.rows import WORKER, add_file, add_project, queued_job
from worker import tracking
from worker.attempt import Attempt, Place
from worker.tracking import Tracking

STEP = Step(
    step=1, total_steps=2, train_loss=0.5, train_mean_token_accuracy=0.5, learning_rate=1e-3, grad_norm=1.0, tokens=9,
    tokens_per_s=9.0,
)  # fmt: skip


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = open_database(f"sqlite:///{tmp_path / 'attune.db'}")
    migrate.upgrade(database)
    with database.begin() as session:
        add_project(session)
        add_file(session)
        session.add(BaseModelRow(id="tiny", source="folder", location="tiny", revision="r1", status="ready"))
    yield database
    database.close()


@pytest.fixture
def attempt(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Attempt:
    """An attempt at a job that asked for wandb, on a worker that has no key for it."""
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    job_id = queued_job(database)
    request = {"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]}
    with database.begin() as session:
        values = {"request": request, "resolved": RESOLVED.model_dump(mode="json")}
        session.execute(update(Job).where(Job.id == job_id).values(**values))
    with database.begin() as session:
        claim = claims.claim_training(session, WORKER, 600)
    assert claim is not None
    settings = Settings(data_dir=tmp_path)
    place = Place(settings, database, open_storage(settings), tmp_path / "jobs", lambda: False)
    with database.read() as session:
        inputs = job_files.inputs_of(session, claim.job)
    attempt = Attempt(place, claim, inputs, on_lost=lambda: None)
    attempt.folder.root.mkdir(parents=True)
    return attempt


def warnings(database: Database) -> list[str]:
    with database.read() as session:
        return list(session.scalars(select(JobEvent.message).where(JobEvent.level == "warn")))


def test_an_integration_that_cannot_start_is_a_warning(attempt: Attempt, database: Database) -> None:
    runs = Tracking(attempt)
    runs.start()
    runs.step(STEP)
    runs.finish()
    [said] = warnings(database)
    assert said.startswith("The integration wandb failed, and the job goes on without it: ")
    runs.step(STEP)
    runs.abandon()
    assert warnings(database) == [said]
    with database.read() as session:
        assert session.get_one(Job, attempt.job.id).status == "running"


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_an_integration_that_hangs_is_left_behind(
    attempt: Attempt, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "FINISH_S", 4.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        runs = Tracking(attempt)
        started = time.monotonic()
        runs.start()
        for _ in range(2000):  # more than a pipe holds
            runs.step(STEP)
        runs.look()
        assert time.monotonic() - started < 2.0
        runs.finish()
    [said] = warnings(database)
    assert "took longer than 4 s" in said
