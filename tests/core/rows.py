"""Rows that tests of the core begin with."""

from __future__ import annotations

from core.db import Database, Session
from core.jobs import jobs
from core.jobs.claims import WorkerFacts
from core.jobs.jobs import Placement
from core.models import File, Job, JobStatus, Project
from core.spec import JobSpec

WORKER = WorkerFacts(id="worker-1", memory_bytes=1 << 34)


def add_project(session: Session, project_id: str = "proj_one") -> Project:
    project = Project(id=project_id, name=project_id, slug=project_id.removeprefix("proj_"))
    session.add(project)
    session.flush()
    return project


def add_file(session: Session, file_id: str = "file-train", project_id: str = "proj_one") -> File:
    row = File(
        id=file_id, project_id=project_id, filename="train.jsonl", purpose="fine-tune", bytes=1, sha256="0" * 64,
        storage_key=f"projects/{project_id}/files/{file_id}", status="processed",
    )  # fmt: skip
    session.add(row)
    session.flush()
    return row


def add_job(session: Session, project_id: str = "proj_one", **placement: object) -> Job:
    spec = JobSpec(base_model="tiny", training_file="file-train", seed=7)
    new = jobs.new(
        project_id=project_id, spec=spec, model="tiny", suffix=None, request={}, metadata=None,
        placement=Placement(**placement),  # pyright: ignore[reportArgumentType]
    )  # fmt: skip
    (made,) = jobs.create(session, [new])
    return session.get_one(Job, made.id)  # the session's own, which a test may change


def queued_job(database: Database, **placement: object) -> str:
    """A job that preparation has passed."""
    with database.begin() as session:
        job = add_job(session, **placement)
        assert jobs.move(session, job.id, JobStatus.QUEUED, []) is not None
    return job.id
