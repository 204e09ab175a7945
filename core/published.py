"""Published adapters as a project sees them: its fine-tuned models, and the checkpoints of its jobs."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.db import db_now
from core.errors import AttuneError, NotFound
from core.models import TERMINAL, Checkpoint, Job, Model


def no_such_model(model_id: str) -> NotFound:
    """OpenAI's words, for what does not exist and for what is another's alike."""
    return NotFound(f"The model '{model_id}' does not exist", code="model_not_found", param="model")


def listed(session: Session, project_id: str) -> Sequence[Model]:
    """The project's models and checkpoints, newest first."""
    return session.scalars(
        select(Model)
        .where(Model.project_id == project_id, Model.deleted_at.is_(None))
        .order_by(Model.created_at.desc(), Model.id)
    ).all()


def find(session: Session, project_id: str, model_id: str, *, lock: bool = False) -> Model | None:
    """The project's model of this id. `lock`: nobody deletes it in this transaction."""
    query = select(Model).where(Model.id == model_id, Model.project_id == project_id, Model.deleted_at.is_(None))
    return session.scalar(query.with_for_update(read=True) if lock else query)


def get(session: Session, project_id: str, model_id: str) -> Model:
    model = find(session, project_id, model_id)
    if model is None:
        raise no_such_model(model_id)
    return model


def delete(session: Session, project_id: str, model_id: str) -> None:
    """Take the model out of sight; the janitor removes its objects. Refused while a job continues from it."""
    model = session.scalar(
        select(Model)
        .where(Model.id == model_id, Model.project_id == project_id, Model.deleted_at.is_(None))
        .with_for_update()
    )
    if model is None:
        raise no_such_model(model_id)
    user = session.scalar(
        select(Job.id).where(Job.project_id == project_id, Job.model == model_id, Job.status.not_in(TERMINAL)).limit(1)
    )
    if user is not None:
        raise AttuneError(
            f"The model '{model_id}' is in use by the job {user}. Cancel the job, or wait for its end.",
            code="model_in_use",
            param="model",
        )
    model.deleted_at = session.scalar(select(db_now()))


def checkpoints_page(session: Session, job: Job, *, after: str | None, limit: int) -> tuple[Sequence[Checkpoint], bool]:
    """(up to `limit` of the job's checkpoints that still exist, newest first; whether there are more)."""
    query = (
        select(Checkpoint)
        .join(Model, Model.id == Checkpoint.model_id)
        .where(Checkpoint.job_id == job.id, Model.deleted_at.is_(None))
    )
    if after is not None:
        step = session.scalar(select(Checkpoint.step).where(Checkpoint.id == after, Checkpoint.job_id == job.id))
        if step is None:
            raise AttuneError(
                f"No such checkpoint with id {after} in job {job.id}", code="invalid_cursor", param="after"
            )
        query = query.where(Checkpoint.step < step)
    rows = session.scalars(query.order_by(Checkpoint.step.desc(), Checkpoint.id).limit(limit + 1)).all()
    return rows[:limit], len(rows) > limit
