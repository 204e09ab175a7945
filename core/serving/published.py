"""Published adapters as a project sees them: its fine-tuned models and checkpoints, and those shared with it."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session

from core import ids
from core.access import tenancy
from core.db import db_now
from core.errors import AttuneError, NotFound
from core.models import TERMINAL, Checkpoint, CheckpointPermission, Job, Model, Project
from core.serving.alias_models import ModelAlias


def no_such_model(model_id: str) -> NotFound:
    """OpenAI's words, for what does not exist and for what is another's alike."""
    return NotFound(f"The model '{model_id}' does not exist", code="model_not_found", param="model")


def _usable(project_id: str) -> list[ColumnElement[bool]]:
    shared = select(CheckpointPermission.model_id).where(CheckpointPermission.project_id == project_id)
    return [or_(Model.project_id == project_id, Model.id.in_(shared)), Model.deleted_at.is_(None)]


def listed(session: Session, project_id: str) -> list[tuple[Model, str]]:
    """(model or checkpoint, its owner's slug), of all that the project may use, newest first."""
    rows = session.execute(
        select(Model, Project.slug)
        .join(Project, Project.id == Model.project_id)
        .where(*_usable(project_id))
        .order_by(Model.created_at.desc(), Model.id)
    )
    return [(row[0], row[1]) for row in rows]


def find(session: Session, project_id: str, model_id: str, *, lock: bool = False) -> Model | None:
    """The model of this id that the project may use: its own, or one shared with it.

    `lock`: nobody deletes it in this transaction. No look is spent on a name that no published model has.
    """
    if not model_id.startswith(ids.FINE_TUNED):
        return None
    query = select(Model).where(Model.id == model_id, *_usable(project_id))
    return session.scalar(query.with_for_update(read=True) if lock else query)


def owner_slug(session: Session, model: Model) -> str:
    return session.get_one(Project, model.project_id).slug


def get(session: Session, project_id: str, model_id: str) -> Model:
    """The project's own model, for what only an owner may do. Raises the 403 of one that is shared with it."""
    model = find(session, project_id, model_id)
    if model is None:
        raise no_such_model(model_id)
    if model.project_id != project_id:
        raise AttuneError(
            f"The model '{model_id}' is shared with your project for use. Only the project that owns it can "
            "download or delete it.",
            code="model_not_owned",
            param="model",
            status=403,
        )
    return model


def delete(session: Session, project_id: str, model_id: str) -> None:
    """Take the model out of sight; the janitor removes its objects. Refused while a job continues from it."""
    get(session, project_id, model_id)
    model = session.scalar(select(Model).where(Model.id == model_id, Model.deleted_at.is_(None)).with_for_update())
    if model is None:  # deleted a moment ago
        raise no_such_model(model_id)
    with tenancy.across(session):  # it may be a guest's
        user = session.scalar(select(Job).where(Job.model == model_id, Job.status.not_in(TERMINAL)).limit(1))
    if user is not None:
        shown = f"the job {user.id}" if user.project_id == project_id else "a job of a project that it is shared with"
        raise AttuneError(
            f"The model '{model_id}' is in use by {shown}. Cancel the job, or wait for its end.",
            code="model_in_use",
            param="model",
        )
    mine = (ModelAlias.project_id == project_id, ModelAlias.target == model_id)
    if (alias := session.scalar(select(ModelAlias.name).where(*mine).limit(1))) is not None:
        raise AttuneError(
            f"The model '{model_id}' answers to the alias '{alias}'. Point the alias elsewhere, or delete it first.",
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
