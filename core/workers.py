"""The rows in which workers describe themselves. A worker that has not beaten for `ALIVE_S` counts as gone."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from core.batches import claims as batch_claims
from core.db import db_now
from core.models import Job, JobStatus, Worker

ALIVE_S = 45.0
FORGET_S = 7 * 24 * 3600.0


def register(session: Session, worker: Worker) -> None:
    """Write the row of a worker that starts, replacing its predecessor's."""
    session.execute(delete(Worker).where(Worker.id == worker.id))
    session.add(worker)


def beat(
    session: Session, worker_id: str, incarnation: str, *, state: str, job_id: str | None, resident_base: str | None
) -> bool:
    """Say that the worker lives and what it does. False: another process has taken its name."""
    done = session.execute(
        update(Worker)
        .where(Worker.id == worker_id, Worker.incarnation == incarnation)
        .values(beat_at=db_now(), state=state, job_id=job_id, resident_base=resident_base)
        .returning(Worker.id)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    return done is not None


def leave(session: Session, worker_id: str, incarnation: str) -> None:
    """A worker that ends in order takes its row along."""
    session.execute(delete(Worker).where(Worker.id == worker_id, Worker.incarnation == incarnation))


def alive(session: Session) -> Sequence[Worker]:
    """The workers that have beaten lately."""
    return session.scalars(select(Worker).where(Worker.beat_at > db_now() - ALIVE_S).order_by(Worker.id)).all()


def forget_dead(session: Session) -> None:
    """Drop the rows of workers that have been silent for a week."""
    session.execute(delete(Worker).where(Worker.beat_at < db_now() - FORGET_S))


def idle_workers(session: Session) -> list[str]:
    """The idle workers alive, if a job is queued for them or a batch waits; else none."""
    queued = session.scalar(select(Job.id).where(Job.status == JobStatus.QUEUED, Job.not_before <= db_now()).limit(1))
    if queued is None and not batch_claims.any_waiting(session):
        return []
    return [worker.id for worker in alive(session) if worker.state == "idle"]
