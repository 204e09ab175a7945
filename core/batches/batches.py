"""Batches as their project sees them: create, look, cancel. What is done under a claim is in `core.batches.claims`."""

from __future__ import annotations

from sqlalchemy import select, tuple_, update
from sqlalchemy.orm import Session

from core import ids
from core.access import projects, quotas
from core.batches.models import ENDED, Batch, BatchStatus
from core.db import db_now
from core.errors import AttuneError, NotFound
from core.files import files
from core.files.files import BATCH

WINDOW_S = {"24h": 24 * 3600.0}
MAX_INPUT_BYTES = 200 * 1024 * 1024


def create(
    session: Session,
    project_id: str,
    *,
    endpoint: str,
    input_file_id: str,
    completion_window: str,
    metadata: dict[str, str] | None,
    output_lifetime_s: int | None,
) -> Batch:
    """A new batch in `validating`. Raises AttuneError for a file that cannot be its input, or QuotaReached."""
    project = projects.lock(session, project_id)
    file = files.get(session, project_id, input_file_id, param="input_file_id", lock=True)
    if file.purpose != BATCH:
        raise AttuneError(
            f"File {file.id} has the purpose '{file.purpose}'; upload it again with the purpose '{BATCH}'.",
            code="invalid_file_purpose",
            param="input_file_id",
        )
    if file.bytes > MAX_INPUT_BYTES:
        raise AttuneError(
            f"File {file.id} has {file.bytes} bytes; the input of a batch has at most {MAX_INPUT_BYTES}. "
            "Split it into several batches.",
            code="file_too_large",
            param="input_file_id",
        )
    quotas.check_jobs(session, project)
    quotas.check_bytes(session, project)
    row = Batch(
        id=ids.batch_id(),
        project_id=project_id,
        status=BatchStatus.VALIDATING,
        endpoint=endpoint,
        input_file_id=file.id,
        completion_window=completion_window,
        user_metadata=metadata,
        output_lifetime_s=output_lifetime_s,
        expires_at=db_now() + WINDOW_S[completion_window],
    )
    session.add(row)
    session.flush()
    session.refresh(row)
    return row


def get(session: Session, project_id: str, batch_id: str) -> Batch:
    query = select(Batch).where(Batch.id == batch_id, Batch.project_id == project_id)
    row = session.scalar(query.execution_options(populate_existing=True))
    if row is None:
        raise NotFound(f"No such batch: {batch_id}", code="batch_not_found", param="batch_id")
    return row


def page(session: Session, project_id: str, *, after: str | None, limit: int) -> tuple[list[Batch], bool]:
    """(up to `limit` batches, newest first, after the batch `after`; whether there are more)."""
    query = select(Batch).where(Batch.project_id == project_id)
    if after is not None:
        cursor = session.scalar(query.where(Batch.id == after))
        if cursor is None:
            raise AttuneError(f"No such batch with id {after}", param="after", code="invalid_cursor")
        query = query.where(tuple_(Batch.created_at, Batch.id) < tuple_(cursor.created_at, cursor.id))
    rows = session.scalars(query.order_by(Batch.created_at.desc(), Batch.id.desc()).limit(limit + 1)).all()
    return list(rows[:limit]), len(rows) > limit


def cancel(session: Session, project_id: str, batch_id: str) -> Batch:
    """validating, in_progress -> cancelling; whoever claims it next, or holds it, brings it to its end.

    Cancelling twice is no error.
    """
    get(session, project_id, batch_id)
    session.execute(
        update(Batch)
        .where(Batch.id == batch_id, Batch.status.in_((BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS)))
        .values(status=BatchStatus.CANCELLING, cancelling_at=db_now(), not_before=0.0)
        .execution_options(synchronize_session=False)
    )
    batch = get(session, project_id, batch_id)
    if batch.status not in (BatchStatus.CANCELLING, BatchStatus.CANCELLED):
        state = (
            "is finalizing: all its requests are answered" if batch.status == "finalizing" else f"has {batch.status}"
        )
        raise AttuneError(
            f"Batch {batch_id} {state}; only one that is validating or in progress can be cancelled.",
            code="batch_not_cancellable",
            param="batch_id",
        )
    return batch


def stop_all(session: Session, project_id: str) -> int:
    """End what is unfinished in a project that is being erased; returns how many a worker still holds."""
    unfinished = update(Batch).where(Batch.project_id == project_id, Batch.status.not_in(ENDED))
    free = unfinished.where(Batch.lease_until.is_(None)).values(
        status=BatchStatus.CANCELLED, cancelled_at=db_now(), swept_at=db_now()
    )
    session.execute(free.execution_options(synchronize_session=False))
    session.execute(
        unfinished.values(status=BatchStatus.CANCELLING, cancelling_at=db_now()).execution_options(
            synchronize_session=False
        )
    )
    held = select(Batch.id).where(Batch.project_id == project_id, Batch.lease_until > db_now())
    return len(session.scalars(held).all())
