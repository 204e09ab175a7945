"""What the janitor removes, and what it leaves alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sqlalchemy import update

from core.db import Database, db_now
from core.jobs import claims, jobs
from core.jobs.jobs import NewEvent
from core.models import File, Job, JobStatus, Model, Snapshot
from core.settings import Settings
from core.store.storage import Storage, open_storage
from core.upkeep import cleaning
from tests.core.rows import WORKER, add_file, add_project, queued_job


@pytest.fixture
def database(sqlite: Database) -> Database:
    """With a project and a file."""
    with sqlite.begin() as session:
        add_project(session)
        add_file(session)
    return sqlite


@pytest.fixture
def storage(storage_settings: dict[str, str]) -> Storage:
    names = {name.removeprefix("ATTUNE_").lower(): value for name, value in storage_settings.items()}
    return open_storage(Settings.model_validate(names))


def keys(storage: Storage, prefix: str = "projects") -> set[str]:
    return {entry.key for entry in storage.list(prefix)}


def test_a_finished_job_keeps_its_model_and_log_and_nothing_else(database: Database, storage: Storage) -> None:
    job_id = queued_job(database)
    root = f"projects/proj_one/jobs/{job_id}/1"
    kept = {f"{root}/final/files/adapter_model.safetensors", f"{root}/final/adapter.zip", f"{root}/engine.log"}
    for key in (*kept, f"{root}/snapshots/step-5.tar", f"{root}/step-3/adapter.zip", f"{root}/final2/x"):
        storage.put_bytes(key, key.encode())
    with database.begin() as session:
        claim = claims.claim_training(session, WORKER, 60)
        assert claim is not None
        session.add(
            Model(
                id="ft:x", project_id="proj_one", job_id=job_id, base_model="tiny", base_revision="1",
                quantization="nf4", step=5, storage_prefix=f"{root}/final", files=[], zip_key="", zip_bytes=1,
                zip_sha256="", adapter_sha256="", template_hash="",
            )
        )  # fmt: skip
        session.add(Snapshot(job_id=job_id, step=5, attempt=1, storage_key="x", bytes=1, sha256=""))
        claims.report(session, claim, log_keys=[f"{root}/engine.log"])
        jobs.move(session, job_id, JobStatus.SUCCEEDED, [NewEvent("done")], finished_at=db_now())
    assert cleaning.sweep_finished_jobs(database, storage, older_than_s=60) == 0
    with database.begin() as session:
        session.execute(update(Job).values(finished_at=db_now() - 61))
    assert cleaning.sweep_finished_jobs(database, storage, older_than_s=60) == 1
    assert keys(storage) == kept
    assert cleaning.sweep_finished_jobs(database, storage, older_than_s=60) == 0


def test_expired_and_deleted_files_go_unless_a_job_needs_them(database: Database, storage: Storage) -> None:
    queued_job(database)
    with database.begin() as session:
        for name in ("file-old", "file-kept", "file-deleted"):
            add_file(session, name)
        session.execute(update(File).where(File.id.in_(["file-old", "file-train"])).values(expires_at=db_now() - 1))
        session.execute(update(File).where(File.id == "file-deleted").values(deleted_at=db_now()))
    for name in ("file-train", "file-old", "file-kept", "file-deleted"):
        storage.put_bytes(f"projects/proj_one/files/{name}", b"x")
    assert cleaning.remove_files(database, storage) == 2
    assert keys(storage) == {"projects/proj_one/files/file-train", "projects/proj_one/files/file-kept"}


def test_uploads_that_no_row_names_go_after_a_day(database: Database, tmp_path: Path) -> None:
    storage = open_storage(Settings(storage_url=(tmp_path / "objects").as_uri()))
    for name in ("file-train", "file-orphan", "file-young"):
        storage.put_bytes(f"projects/proj_one/files/{name}", b"x")
    for name in ("file-train", "file-orphan"):
        path = next((tmp_path / "objects").rglob(name))
        os.utime(path, (1_600_000_000, 1_600_000_000))
    assert cleaning.sweep_unnamed_uploads(database, storage, older_than_s=24 * 3600) == 1
    assert keys(storage) == {"projects/proj_one/files/file-train", "projects/proj_one/files/file-young"}
