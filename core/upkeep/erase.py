"""Remove a project with everything it owns: keys, jobs, rows, objects. May be repeated until it is done.

What stays is the audit log, which holds ids and routes and none of the project's data, until it is old.

Its running jobs are stopped first: an attempt that goes on would store objects which no row names.
"""

from __future__ import annotations

from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session

from core.access.projects import DEFAULT
from core.batches import batches
from core.batches.models import Batch, BatchPart
from core.db import Database, db_now
from core.doctor.models import DoctorTask
from core.errors import AttuneError, NotFound, Unavailable
from core.files.models import Upload, UploadPart
from core.jobs import jobs
from core.models import (
    TERMINAL,
    ApiKey,
    Checkpoint,
    CheckpointPermission,
    Creation,
    File,
    Job,
    JobEvent,
    KeptAnswer,
    Model,
    Project,
    Snapshot,
)
from core.planning.models import TokenCount
from core.serving.alias_models import ModelAlias
from core.store.storage import Storage
from core.webhooks.models import WebhookDelivery, WebhookEndpoint, WebhookEvent

STOP_S = 10.0  # about what a worker needs to see the flag and to end its engine


def erase_project(database: Database, storage: Storage, project_id: str) -> int:
    """Erase all rows and objects of a project; returns how many objects. The project `default` stays.

    Raises Unavailable while a job is being stopped or the store is away: the project is closed by then, and the
    same call goes on from there.
    """
    with database.begin() as session:
        _close(session, project_id)
        held = _stop_jobs(session, project_id) + batches.stop_all(session, project_id)
    if held:
        raise Unavailable(
            f"The project is closed; {held} of its jobs and batches are being stopped. Erase it again in a moment.",
            code="project_busy",
            retry_after_s=STOP_S,
        )
    removed = storage.delete_prefix(f"projects/{project_id}")
    with database.begin() as session:
        its_jobs = select(Job.id).where(Job.project_id == project_id)
        its_models = select(Model.id).where(Model.project_id == project_id)
        session.execute(
            delete(CheckpointPermission).where(
                or_(CheckpointPermission.project_id == project_id, CheckpointPermission.model_id.in_(its_models))
            )
        )
        for table in (JobEvent, Snapshot, Checkpoint):
            session.execute(delete(table).where(table.job_id.in_(its_jobs)))
        its_batches = select(Batch.id).where(Batch.project_id == project_id)
        session.execute(delete(BatchPart).where(BatchPart.batch_id.in_(its_batches)))
        its_uploads = select(Upload.id).where(Upload.project_id == project_id)
        session.execute(delete(UploadPart).where(UploadPart.upload_id.in_(its_uploads)))
        its_keys = select(ApiKey.id).where(ApiKey.project_id == project_id)
        session.execute(delete(KeptAnswer).where(KeptAnswer.key_id.in_(its_keys)))
        for table in (
            Creation,
            ModelAlias,
            TokenCount,
            DoctorTask,
            WebhookDelivery,
            WebhookEndpoint,
            WebhookEvent,
            Model,
            Job,
            Batch,
            File,
            Upload,
            ApiKey,
        ):
            session.execute(delete(table).where(table.project_id == project_id))
        session.execute(delete(Project).where(Project.id == project_id))
    return removed


def _close(session: Session, project_id: str) -> None:
    """From here on no key of the project is accepted, and no webhook of it sent."""
    project = session.scalar(select(Project).where(Project.id == project_id).with_for_update())
    if project is None:
        raise NotFound(f"No such project: {project_id}", code="project_not_found", param="project_id")
    if project.slug == DEFAULT:
        raise AttuneError("The project 'default' cannot be erased.", code="default_project", param="project_id")
    session.execute(update(Project).where(Project.id == project_id).values(erased_at=db_now()))
    session.execute(update(ApiKey).where(ApiKey.project_id == project_id).values(revoked_at=db_now()))
    # no delivery is made any more, so that none stands in the way of removing its endpoint
    session.execute(
        update(WebhookEndpoint).where(WebhookEndpoint.project_id == project_id).values(disabled_at=db_now())
    )


def _stop_jobs(session: Session, project_id: str) -> int:
    """Cancel what is unfinished; returns how many jobs a worker still holds."""
    unfinished = select(Job.id).where(Job.project_id == project_id, Job.status.not_in(TERMINAL))
    for job_id in session.scalars(unfinished).all():
        jobs.cancel(session, project_id, job_id)
    held = unfinished.where(Job.lease_until > db_now())
    return len(session.scalars(held).all())
