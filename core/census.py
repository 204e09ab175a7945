"""Numbers for the operator's monitoring: what waits, what runs, and who is there to do it."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core import servers, workers
from core.batch_models import Batch, BatchStatus
from core.db import db_now
from core.models import Job, JobStatus


@dataclass(frozen=True)
class Census:
    jobs: dict[str, int]  # every status, also those of no job
    batches: dict[str, int]  # every status, also those of no batch
    oldest_queued_s: float  # age of the job that has been in the queue the longest; 0 when it is empty
    workers: dict[str, int]  # state -> workers alive
    servers: int


def take(session: Session) -> Census:
    rows = session.execute(select(Job.status, func.count()).group_by(Job.status))
    counted: dict[str, int] = {row[0]: row[1] for row in rows}
    rows = session.execute(select(Batch.status, func.count()).group_by(Batch.status))
    counted_batches: dict[str, int] = {row[0]: row[1] for row in rows}
    oldest = session.scalar(select(db_now() - func.min(Job.created_at)).where(Job.status == JobStatus.QUEUED))
    states: dict[str, int] = {"idle": 0, "busy": 0, "draining": 0}
    for worker in workers.alive(session):
        states[worker.state] = states.get(worker.state, 0) + 1
    return Census(
        jobs={status.value: counted.get(status.value, 0) for status in JobStatus},
        batches={status.value: counted_batches.get(status.value, 0) for status in BatchStatus},
        oldest_queued_s=max(oldest or 0.0, 0.0),
        workers=states,
        servers=len(servers.alive(session)),
    )
