"""Rows of the doctor's work: asked for, claimed, told of, ended. Every write of a claim carries its attempt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, case, delete, func, select, tuple_, update
from sqlalchemy.orm import Session

from core import ids
from core.access import projects, quotas
from core.db import db_now
from core.doctor.models import ENDED, DoctorTask, TaskKind, TaskStatus
from core.errors import AttuneError, NotFound

MAX_UNFINISHED = 4  # of a project at once
MAX_ATTEMPTS = 3
KEEP_S = 30 * 24 * 3600.0
_PREFIXES = {
    TaskKind.CONVERSION: "conv",
    TaskKind.REPORT: "rep",
    TaskKind.REPAIR: "fix",
    TaskKind.SPLIT: "split",
}
_MAKES_FILES = (TaskKind.CONVERSION, TaskKind.REPAIR, TaskKind.SPLIT)


@dataclass(frozen=True)
class TaskClaim:
    """A task as it was at the claim."""

    task: DoctorTask
    attempt: int


def create(session: Session, project_id: str, kind: TaskKind, file_id: str, request: dict[str, Any]) -> DoctorTask:
    """A queued task. Raises the 429 of a project that has enough of them, or stores too much for a new file."""
    project = projects.lock(session, project_id)
    unfinished = session.scalar(
        select(func.count())
        .select_from(DoctorTask)
        .where(DoctorTask.project_id == project_id, DoctorTask.status.not_in(ENDED))
    )
    if (unfinished or 0) >= MAX_UNFINISHED:
        raise AttuneError(
            f"The project has {unfinished} unfinished reports, conversions, repairs and splits; wait until one ends.",
            code="too_many_tasks",
            status=429,
            retry_after_s=5.0,
        )
    if kind in _MAKES_FILES:
        quotas.check_bytes(session, project)
    row = DoctorTask(
        id=f"{_PREFIXES[kind]}_{ids.random_text(24)}",
        project_id=project_id,
        kind=kind,
        status=TaskStatus.QUEUED,
        file_id=file_id,
        request=request,
        stage="waiting",
    )
    session.add(row)
    session.flush()
    session.refresh(row)
    return row


def get(session: Session, project_id: str, kind: TaskKind, task_id: str) -> DoctorTask:
    query = select(DoctorTask).where(
        DoctorTask.id == task_id, DoctorTask.project_id == project_id, DoctorTask.kind == kind
    )
    row = session.scalar(query)
    if row is None:
        raise NotFound(f"No such {kind}: {task_id}", code=f"{kind}_not_found")
    return row


def page(
    session: Session, project_id: str, kind: TaskKind, *, file_id: str | None, after: str | None, limit: int
) -> tuple[Sequence[DoctorTask], bool]:
    """(up to `limit` tasks after the task `after`, newest first; whether there are more)."""
    query = select(DoctorTask).where(DoctorTask.project_id == project_id, DoctorTask.kind == kind)
    if file_id is not None:
        query = query.where(DoctorTask.file_id == file_id)
    if after is not None:
        try:
            cursor = get(session, project_id, kind, after)
        except NotFound as error:
            raise AttuneError(f"No such {kind} with id: {after}", code="invalid_cursor", param="after") from error
        query = query.where(tuple_(DoctorTask.created_at, DoctorTask.id) < tuple_(cursor.created_at, cursor.id))
    rows = session.scalars(query.order_by(DoctorTask.created_at.desc(), DoctorTask.id.desc()).limit(limit + 1)).all()
    return rows[:limit], len(rows) > limit


# The claim


def claim(session: Session, holder: str, lease_s: float) -> TaskClaim | None:
    """Claim the oldest task, of projects with nothing running first."""
    running = select(DoctorTask.project_id).where(DoctorTask.status == TaskStatus.RUNNING)
    candidate = (
        select(DoctorTask.id)
        .where(DoctorTask.status == TaskStatus.QUEUED)
        .order_by(case((DoctorTask.project_id.in_(running), 1), else_=0), DoctorTask.created_at, DoctorTask.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    row = session.scalars(
        update(DoctorTask)
        .where(DoctorTask.id == candidate, DoctorTask.status == TaskStatus.QUEUED)
        .values(
            status=TaskStatus.RUNNING,
            attempt=DoctorTask.attempt + 1,
            lease_until=db_now() + lease_s,
            holder=holder,
            started_at=func.coalesce(DoctorTask.started_at, db_now()),
            stage="reading",
        )
        .returning(DoctorTask)
        .execution_options(synchronize_session=False, populate_existing=True)
    ).one_or_none()
    return None if row is None else TaskClaim(row, row.attempt)


def _mine(claim: TaskClaim) -> list[ColumnElement[bool]]:
    return [
        DoctorTask.id == claim.task.id,
        DoctorTask.attempt == claim.attempt,
        DoctorTask.status == TaskStatus.RUNNING,
    ]


def _write(session: Session, claim: TaskClaim, **values: Any) -> bool:
    found = session.scalar(
        update(DoctorTask)
        .where(*_mine(claim))
        .values(**values)
        .returning(DoctorTask.id)
        .execution_options(synchronize_session=False)
    )
    return found is not None


def beat(session: Session, claim: TaskClaim, lease_s: float, stage: str, share: float) -> bool:
    """Renew the lease and tell how far it is. False: the lease is lost, or the project is gone."""
    return _write(session, claim, lease_until=db_now() + lease_s, stage=stage, share=share)


def succeed(session: Session, claim: TaskClaim, result: dict[str, Any]) -> bool:
    return _write(
        session, claim, status=TaskStatus.SUCCEEDED, result=result, stage="done", share=1.0,
        finished_at=db_now(), lease_until=None,
    )  # fmt: skip


def fail(session: Session, claim: TaskClaim, error: AttuneError) -> bool:
    told = {"code": error.code or "task_lost", "message": error.message, "param": error.param}
    return _write(session, claim, status=TaskStatus.FAILED, error=told, finished_at=db_now(), lease_until=None)


def end_expired(session: Session) -> int:
    """Queue again what nobody beats for any more; returns how many."""
    return _lose_all(session, DoctorTask.lease_until < db_now())


def end_claims_of(session: Session, holder: str) -> int:
    """A process that starts again ends the claims of its dead predecessor at once; returns how many."""
    return _lose_all(session, DoctorTask.holder == holder)


def _lose_all(session: Session, condition: ColumnElement[bool]) -> int:
    rows = session.scalars(
        select(DoctorTask).where(DoctorTask.status == TaskStatus.RUNNING, condition).with_for_update(skip_locked=True)
    ).all()
    for row in rows:
        lost = TaskClaim(row, row.attempt)
        if row.attempt >= MAX_ATTEMPTS:
            fail(session, lost, AttuneError("The work ended early three times in a row.", code="task_lost"))
        else:
            _write(session, lost, status=TaskStatus.QUEUED, lease_until=None, stage="waiting", share=0.0)
    return len(rows)


def forget_old(session: Session) -> int:
    """Remove what ended a month ago; the files that it made stay. Returns how many."""
    old = delete(DoctorTask).where(DoctorTask.status.in_(ENDED), DoctorTask.finished_at < db_now() - KEEP_S)
    return len(session.scalars(old.returning(DoctorTask.id)).all())
