"""The right to work on a batch: claim, beat, record answers, end, lose. As `core.jobs.claims` is for jobs.

The preparation child claims batches to validate them, workers to answer their lines; both bring those to their end
that were cancelled, that ran out of time, or whose worker died at the end. A write that carries an attempt which is
over matches no row: its caller writes nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Update, and_, exists, or_, select, update
from sqlalchemy.orm import Session

from core.batches.models import ENDED, Batch, BatchPart, BatchStatus
from core.db import db_now
from core.jobs.claims import Flags
from core.jobs.losses import BACKOFF_S
from core.models import File
from core.webhooks import outbox

MAX_BACKOFF_S = 600.0
TURN_S = 60.0  # a batch that others wait for gives way after this
_OVER_TIME: ColumnElement[bool] = Batch.expires_at < db_now()
_LEFT: dict[str, Any] = {"lease_until": None, "worker_id": None, "not_before": db_now()}
_LATE = (BatchStatus.CANCELLING, BatchStatus.FINALIZING)


@dataclass(frozen=True)
class BatchClaim:
    """A batch as it was at the claim, and the attempt that every write of this claim carries."""

    batch: Batch
    attempt: int

    @property
    def object_id(self) -> str:
        return self.batch.id

    @property
    def prefix(self) -> str:
        """Of the objects of this attempt."""
        return f"projects/{self.batch.project_id}/batches/{self.batch.id}/{self.attempt}"

    def beat(self, session: Session, lease_s: float) -> Flags | None:
        """Renew the lease; None when it is lost."""
        return _flags(session, _fenced(self).values(lease_until=db_now() + lease_s))


@dataclass(frozen=True)
class Answers:
    """What came of the lines after the last recorded one: how many, where they are, what they cost."""

    first_line: int
    completed: int
    failed: int
    input_tokens: int
    output_tokens: int
    output_key: str | None
    error_key: str | None


def claim_early(session: Session, holder: str, lease_s: float) -> BatchClaim | None:
    """For who answers no lines: a batch to be validated, or to be brought to its end."""
    early = Batch.status == BatchStatus.VALIDATING
    return _claim(session, or_(early, Batch.status.in_(_LATE), _OVER_TIME), holder, lease_s)


def claim_lines(session: Session, holder: str, lease_s: float) -> BatchClaim | None:
    """For a worker: a batch whose lines are to be answered, or one to be brought to its end."""
    return _claim(session, Batch.status.in_((BatchStatus.IN_PROGRESS, *_LATE)), holder, lease_s)


def _waiting(wanted: ColumnElement[bool]) -> ColumnElement[bool]:
    return and_(Batch.status.not_in(ENDED), wanted, Batch.lease_until.is_(None), Batch.not_before <= db_now())


def _claim(session: Session, wanted: ColumnElement[bool], holder: str, lease_s: float) -> BatchClaim | None:
    candidate = select(Batch.id).where(_waiting(wanted)).order_by(Batch.not_before, Batch.id)
    batch = session.scalars(
        update(Batch)
        .where(Batch.id == candidate.limit(1).with_for_update(skip_locked=True).scalar_subquery(), _waiting(wanted))
        .values(attempt=Batch.attempt + 1, lease_until=db_now() + lease_s, worker_id=holder)
        .returning(Batch)
        .execution_options(synchronize_session=False, populate_existing=True)
    ).one_or_none()
    return None if batch is None else BatchClaim(batch, batch.attempt)


def any_waiting(session: Session) -> bool:
    """Does a batch wait for a worker?"""
    return bool(session.scalar(select(exists().where(_waiting(Batch.status == BatchStatus.IN_PROGRESS)))))


def _fenced(claim: BatchClaim) -> Update:
    return (
        update(Batch)
        .where(Batch.id == claim.batch.id, Batch.attempt == claim.attempt, Batch.lease_until.is_not(None))
        .execution_options(synchronize_session=False)
    )


def _flags(session: Session, statement: Update) -> Flags | None:
    row = session.execute(statement.returning(Batch.status, _OVER_TIME)).one_or_none()
    return None if row is None else Flags(row[0] == BatchStatus.CANCELLING, pause=False, over_time=bool(row[1]))


def validated(session: Session, claim: BatchClaim, *, total: int, model: str | None) -> bool:
    """validating -> in_progress. False when the lease is lost, or the batch was cancelled meanwhile."""
    moved = _fenced(claim).where(Batch.status == BatchStatus.VALIDATING)
    return _applied(
        session,
        moved.values(
            status=BatchStatus.IN_PROGRESS, in_progress_at=db_now(), total=total, model=model, **_LEFT, losses=0
        ),
    )


def rejected(session: Session, claim: BatchClaim, errors: Sequence[dict[str, Any]]) -> bool:
    """validating -> failed, for an input file that is none."""
    moved = _fenced(claim).where(Batch.status == BatchStatus.VALIDATING)
    return _end(session, moved, BatchStatus.FAILED, errors=list(errors))


def record(session: Session, claim: BatchClaim, answers: Answers) -> Flags | None:
    """Name stored answers; from now on those lines are done. None when the lease is lost."""
    flags = _flags(
        session,
        _fenced(claim)
        .where(Batch.answered == answers.first_line - 1)
        .values(
            answered=Batch.answered + answers.completed + answers.failed,
            completed=Batch.completed + answers.completed,
            failed=Batch.failed + answers.failed,
            input_tokens=Batch.input_tokens + answers.input_tokens,
            output_tokens=Batch.output_tokens + answers.output_tokens,
        ),
    )
    if flags is not None:
        keys = {"output_key": answers.output_key, "error_key": answers.error_key}
        session.add(BatchPart(batch_id=claim.batch.id, first_line=answers.first_line, **keys))
    return flags


def finalize(session: Session, claim: BatchClaim) -> BatchStatus | None:
    """in_progress -> finalizing when every line is answered. What the batch is now, None when the lease is lost."""
    ready = (Batch.status == BatchStatus.IN_PROGRESS, Batch.answered == Batch.total)
    session.execute(_fenced(claim).where(*ready).values(status=BatchStatus.FINALIZING, finalizing_at=db_now()))
    status = session.scalar(_fenced(claim).values(attempt=claim.attempt).returning(Batch.status))
    return None if status is None else BatchStatus(status)


def current(session: Session, claim: BatchClaim) -> tuple[Batch, list[BatchPart]]:
    """The batch as it is now, and its parts in the order of their lines."""
    batch = session.get_one(Batch, claim.batch.id, populate_existing=True)
    parts = select(BatchPart).where(BatchPart.batch_id == batch.id).order_by(BatchPart.first_line)
    return batch, list(session.scalars(parts))


def end(session: Session, claim: BatchClaim, status: BatchStatus, output: File | None, error: File | None) -> bool:
    """-> completed, expired or cancelled, with the files. What was not executed counts as failed."""
    for file in (output, error):
        if file is not None:
            session.add(file)
    session.flush()
    source = {
        BatchStatus.COMPLETED: (BatchStatus.FINALIZING,),
        BatchStatus.CANCELLED: (BatchStatus.CANCELLING,),
        BatchStatus.EXPIRED: (BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS),
    }[status]
    ended = _end(
        session,
        _fenced(claim).where(Batch.status.in_(source)),
        status,
        output_file_id=output.id if output else None,
        error_file_id=error.id if error else None,
        failed=Batch.total - Batch.completed,
    )
    if not ended:
        session.rollback()
    return ended


def _end(session: Session, moved: Update, status: BatchStatus, **values: Any) -> bool:
    ended = {"status": status, f"{status}_at": db_now(), **_LEFT, **values}
    batch = session.scalars(
        moved.values(ended).returning(Batch).execution_options(populate_existing=True)
    ).one_or_none()
    if batch is not None:
        outbox.batch_ended(session, batch)
    return batch is not None


def _applied(session: Session, statement: Update) -> bool:
    return session.scalar(statement.returning(Batch.id)) is not None


def give_back(session: Session, claim: BatchClaim) -> bool:
    """The worker ends, or another batch has its turn: go on later from the last recorded line."""
    return _applied(session, _fenced(claim).values(**_LEFT))


def lose(session: Session, claim: BatchClaim) -> bool:
    """This claim came to nothing. The window of a batch bounds how often it is tried, not a number."""
    batch = session.get(Batch, claim.batch.id, populate_existing=True)
    return batch is not None and batch.attempt == claim.attempt and _lose(session, batch)


def _lose(session: Session, batch: Batch) -> bool:
    count = batch.losses + 1 if batch.loss_line == batch.answered else 1
    wait_s = 0.0 if count == 1 else min(BACKOFF_S * 2.0 ** min(count - 2, 16), MAX_BACKOFF_S)
    left = {**_LEFT, "losses": count, "loss_line": batch.answered, "not_before": db_now() + wait_s}
    return _applied(session, _fenced(BatchClaim(batch, batch.attempt)).values(left))


def end_expired(session: Session) -> int:
    """Lose every claim whose lease has ended; returns how many."""
    return _lose_all(session, Batch.lease_until < db_now())


def end_claims_of(session: Session, holder: str) -> int:
    """Who starts again ends the claims of its dead predecessor at once; returns how many."""
    return _lose_all(session, and_(Batch.worker_id == holder, Batch.lease_until.is_not(None)))


def _lose_all(session: Session, condition: ColumnElement[bool]) -> int:
    rows = session.scalars(select(Batch).where(condition).with_for_update(skip_locked=True)).all()
    return sum(_lose(session, batch) for batch in rows)
