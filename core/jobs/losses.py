"""How a claim ends without a result: a crash, a lost worker, a lease that ran out. Try again, or give up.

A loss with progress since the last one costs nothing; `MAX_LOSSES` at one step make the job itself the likely cause.
An outage is no fault of the job's, however often it strikes.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from core.db import db_now
from core.jobs.claims import Claim, mine, spent_s
from core.jobs.jobs import NewEvent, add_events, move
from core.models import Job, JobStatus

MAX_LOSSES = 3  # claims lost in a row without progress
BACKOFF_S = 5.0  # after the second loss at one step; the first is tried again at once
MAX_DOUBLINGS = 3  # of the backoff after an outage


def lose(session: Session, claim: Claim, why: str, *, is_outage: bool = False) -> bool:
    """A claim ended without a result (crash, lost worker): try again, or give up after three at one step.

    `is_outage`: a part of the service is away, for which no job is given up.
    """
    job = session.scalar(select(Job).where(*mine(claim)).with_for_update().execution_options(populate_existing=True))
    return job is not None and _lose(session, job, why, is_outage=is_outage)


def _lose(session: Session, job: Job, why: str, *, is_outage: bool = False) -> bool:
    fence = (Job.attempt == job.attempt, Job.status == job.status)
    before = job.losses if job.loss_step == job.snapshot_step else 0
    count = before if is_outage else before + 1
    ended: dict[str, Any] = {
        "lease_until": None,
        "worker_id": None,
        "estimated_finish": None,
        "attempts_lost": Job.attempts_lost + 1,
    }
    if job.status == JobStatus.RUNNING:
        ended["spent_s"] = spent_s()
        if job.cancel_requested:
            return (
                move(
                    session,
                    job.id,
                    JobStatus.CANCELLED,
                    [NewEvent("The job was cancelled")],
                    *fence,
                    finished_at=db_now(),
                    **ended,
                )
                is not None
            )
    if not is_outage and count >= MAX_LOSSES:
        message = (
            f"The job was lost {count} times in a row at step {job.snapshot_step} ({why}). It is not tried again; "
            "its log says what the last attempt did."
        )
        error = {"code": "worker_lost_repeatedly", "message": message, "param": None}
        event = NewEvent(message, level="error", data={"error_code": error["code"], "error_param": None})
        return (
            move(
                session,
                job.id,
                JobStatus.FAILED,
                [event],
                *fence,
                error=error,
                losses=count,
                finished_at=db_now(),
                **ended,
            )
            is not None
        )
    if is_outage:
        wait_s = BACKOFF_S * 2 ** min(job.attempts_lost, MAX_DOUBLINGS)
    else:
        wait_s = 0.0 if count == 1 else BACKOFF_S * 2 ** (count - 2)
    values: dict[str, Any] = {
        "losses": count,
        "loss_step": job.snapshot_step,
        "not_before": db_now() + wait_s,
        **ended,
    }
    event = NewEvent(f"Attempt {job.attempt} ended early ({why}); going on from step {job.snapshot_step}", level="warn")
    if job.status == JobStatus.RUNNING:
        return move(session, job.id, JobStatus.QUEUED, [event], *fence, **values) is not None
    # preparation stays in its state and is claimed again
    fenced = update(Job).where(Job.id == job.id, *fence).values(event_seq=Job.event_seq + 1, **values)
    seq = session.scalar(fenced.returning(Job.event_seq).execution_options(synchronize_session=False))
    if seq is None:
        return False
    add_events(session, job.id, seq, [event])
    return True


def end_expired(session: Session) -> int:
    """Lose every claim whose lease has ended; returns how many."""
    return _lose_all(session, Job.lease_until < db_now(), "its worker stopped answering")


def end_claims_of(session: Session, worker_id: str) -> int:
    """A worker that starts again ends the claims of its dead predecessor at once; returns how many."""
    return _lose_all(session, Job.worker_id == worker_id, "its worker was started again")


def _lose_all(session: Session, condition: ColumnElement[bool], why: str) -> int:
    held = (JobStatus.RUNNING, JobStatus.VALIDATING_FILES)
    rows = session.scalars(
        select(Job)
        .where(Job.status.in_(held), Job.lease_until.is_not(None), condition)
        .with_for_update(skip_locked=True)
    ).all()
    return sum(_lose(session, job, why) for job in rows)
