"""What the runner does about an engine that hangs, one that goes on with less memory, and one whose snapshots find no
room."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from sqlalchemy import select

from core import migrate
from core.db import Database, open_database
from core.jobs import claims, job_files
from core.jobs.claims import Claim
from core.models import BaseModelRow, Job, JobEvent
from core.planning import measured_run
from core.protocol import TrainTask
from core.settings import load_settings
from core.spec import Resolved
from core.store.storage import open_storage
from tests.api.place import RESOLVED
from tests.core.rows import WORKER, add_file, add_job, add_project
from worker.attempt import Attempt, Place
from worker.engine_process import EngineDied, EngineProcess
from worker.job_run import UNSAVED_IN_A_ROW, JobRun

STEPS = 30


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = open_database(f"sqlite:///{tmp_path / 'attune.db'}")
    migrate.upgrade(database)
    yield database
    database.close()


def _claimed(database: Database, resolved: Resolved) -> Claim:
    with database.begin() as session:
        add_project(session)
        add_file(session)
        session.add(BaseModelRow(id="tiny", source="folder", location="tiny", revision="1", status="ready"))
        add_job(session)
    with database.begin() as session:
        claim = claims.claim_preparation(session, "prepare", 60)
        assert claim is not None
        assert claims.prepared(
            session, claim, resolved=resolved, reasons={}, plan={}, required_bytes=1, template_date="2026-01-01"
        )
    with database.begin() as session:
        claim = claims.claim_training(session, WORKER, 60)
    assert claim is not None
    return claim


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[EngineProcess]:
    engine = EngineProcess(
        device="cpu",
        threads=1,
        log_file=tmp_path / "log",
        folder=tmp_path / "engine",
        module="tests.faults.fake_engine",
    )
    engine.wait_until_ready()
    yield engine
    engine.kill()


def _attempt(tmp_path: Path, database: Database, data: str, stall_s: float) -> Attempt:
    """One that has its work folder, as `fill` leaves it."""
    settings = load_settings(data_dir=tmp_path, stall_s=stall_s)
    resolved = RESOLVED.model_copy(update={"total_steps": STEPS})
    claim = _claimed(database, resolved)
    with database.read() as session:
        inputs = job_files.inputs_of(session, claim.job)
    place = Place(settings, database, open_storage(settings), tmp_path / "jobs", lambda: False)
    attempt = Attempt(place, claim, inputs, on_lost=lambda: None)
    attempt.folder.root.mkdir(parents=True)
    attempt.folder.training.write_text(data)
    task = TrainTask(
        job_id=claim.job_id, attempt=claim.attempt, base_model="tiny", base_revision="1", base_folder="", seed=1,
        resolved=resolved, template_date="", snapshot_interval_s=0.0, keep_snapshots=2, device="cpu",
    )  # fmt: skip
    attempt.folder.task.write_text(task.model_dump_json())
    return attempt


def test_an_engine_that_hangs_is_ended(tmp_path: Path, database: Database, engine: EngineProcess) -> None:
    attempt = _attempt(tmp_path, database, "hang forever", stall_s=0.5)
    with attempt.holding, pytest.raises(EngineDied, match="has reported nothing for"):
        JobRun(attempt, engine).train()
    assert not engine.alive()
    assert not attempt.finished  # the runner tries again


def test_an_engine_that_begins_again_a_rung_lower_is_followed(
    tmp_path: Path, database: Database, engine: EngineProcess
) -> None:
    attempt = _attempt(tmp_path, database, "short of it", stall_s=0.0)
    with attempt.holding:
        JobRun(attempt, engine).train()
    with database.read() as session:
        job = session.get_one(Job, attempt.job.id)
        events = session.scalars(select(JobEvent).where(JobEvent.job_id == job.id).order_by(JobEvent.seq)).all()
    assert job.status == "succeeded", job.error
    assert job.execution is not None
    assert job.execution["checkpointing"] is True  # which the next attempt would have begun with
    run = measured_run.of_job(job)
    assert run is not None
    assert run.planned_memory_bytes == {"weights": 512, "activations": 0}  # of the rung that it ended on
    assert run.peak_memory_bytes == 1000 + STEPS
    assert run.trained_s > 0
    # Steps that were made twice are told once, and that they differ by rounding is no news
    assert [event.data["step"] for event in events if event.type == "metrics" and event.data] == [*range(1, STEPS + 1)]
    assert [event.message for event in events if event.level == "warn"] == ["Memory ran out"]


def test_a_job_whose_snapshots_find_no_room_says_so_and_fails(
    tmp_path: Path, database: Database, engine: EngineProcess
) -> None:
    attempt = _attempt(tmp_path, database, "orders", stall_s=0.0)
    psutil.Process(engine.pid).rlimit(resource.RLIMIT_FSIZE, (10, 10))  # of the files it writes from now on
    with attempt.holding:
        JobRun(attempt, engine).train()
    with database.read() as session:
        job = session.get_one(Job, attempt.job.id)
    assert job.status == "failed"
    assert job.error is not None
    assert job.error["code"] == "storage_full"
    assert f"{UNSAVED_IN_A_ROW} snapshots in a row" in job.error["message"]
    assert not list(attempt.folder.snapshots.iterdir())  # nothing half-written takes more room
