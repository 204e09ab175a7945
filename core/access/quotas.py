"""What a project may have: numbers that an operator sets on its row, null where nothing is set.

Checked with the project locked (`projects.lock`), so that of two requests one gets the last place. How many requests
it may make is counted in `core.access.rates`.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.batches.models import ENDED, Batch
from core.errors import QuotaReached
from core.files.models import Upload, UploadPart, UploadStatus
from core.models import TERMINAL, File, Job, Model, Project


@dataclass(frozen=True)
class Usage:
    """`jobs`: unfinished jobs, paused ones too, and batches. `stored_bytes`: of files, adapters and uploads' parts."""

    jobs: int
    stored_bytes: int


def usage(session: Session, project_id: str) -> Usage:
    unfinished = session.scalar(
        select(func.count()).select_from(Job).where(Job.project_id == project_id, Job.status.not_in(TERMINAL))
    )
    batches = session.scalar(
        select(func.count()).select_from(Batch).where(Batch.project_id == project_id, Batch.status.not_in(ENDED))
    )
    files = session.scalar(select(func.sum(File.bytes)).where(File.project_id == project_id, File.deleted_at.is_(None)))
    zips = session.scalar(
        select(func.sum(Model.zip_bytes)).where(Model.project_id == project_id, Model.deleted_at.is_(None))
    )
    parts = session.scalar(
        select(func.sum(UploadPart.bytes))
        .join(Upload, Upload.id == UploadPart.upload_id)
        .where(Upload.project_id == project_id, Upload.status == UploadStatus.PENDING)
    )
    # An adapter lies there twice: as files, and as a zip of about the same size
    return Usage((unfinished or 0) + (batches or 0), int(files or 0) + 2 * int(zips or 0) + int(parts or 0))


def check_jobs(session: Session, project: Project) -> None:
    """Raises QuotaReached unless the project may have one more unfinished job or batch."""
    if project.max_jobs is None:
        return
    unfinished = usage(session, project.id).jobs
    if unfinished >= project.max_jobs:
        raise QuotaReached(
            f"The project has {unfinished} unfinished jobs and batches and may have {project.max_jobs}. "
            "Wait until one ends, cancel one, or ask an operator for more.",
            code="jobs_quota_reached",
        )


def check_bytes(session: Session, project: Project, more_bytes: int = 0) -> None:
    """Raises QuotaReached when the project stores too much, or would with `more_bytes`."""
    if project.max_stored_bytes is None:
        return
    stored = usage(session, project.id).stored_bytes
    if stored + more_bytes > project.max_stored_bytes:
        wanted = f", and this is {more_bytes} more" if more_bytes else ""
        raise QuotaReached(
            f"The project stores {stored} bytes and may store {project.max_stored_bytes}{wanted}. Delete files or "
            "models, or ask an operator for more.",
            code="stored_bytes_quota_reached",
        )
