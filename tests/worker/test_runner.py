"""The worker's loop by itself: no Celery around it, so nobody ever rings."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from core.db import Database
from core.models import Job
from core.settings import Settings
from tests.api.place import place
from worker import runner
from worker.runner import Runner

SOON_S = 60.0


def test_a_worker_that_hears_no_ring_finds_its_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that came after the worker's start, as when Celery's consumer is deaf since a connection broke."""
    monkeypatch.setattr(runner, "LOOK_UNRUNG_S", 0.1)
    settings = Settings(data_dir=tmp_path, engine_module="tests.faults.fake_engine", log_level="warning")
    with place(settings) as web:
        worker = Runner(settings)
        worker.start()
        try:
            job_id = web.tenant("silence").job()
            web.prepare(job_id)
            deadline = time.monotonic() + SOON_S
            while _attempts(web.database, job_id) == 0:
                assert time.monotonic() < deadline, "nobody looked"
                time.sleep(0.1)
        finally:
            worker.drain()
            worker.close()


def _attempts(database: Database, job_id: str) -> int:
    with database.read() as session:
        job = session.get(Job, job_id)
        assert job is not None
        return job.attempt
