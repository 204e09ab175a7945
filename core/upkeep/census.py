"""Numbers for the operator's monitoring: what waits, what runs, and who is there to do it."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from core import workers
from core.batches.models import Batch, BatchStatus
from core.db import db_now
from core.models import Job, JobEvent, JobStatus
from core.serving import servers
from core.webhooks.models import WebhookDelivery


@dataclass(frozen=True)
class Census:
    jobs: dict[str, int]  # every status, also those of no job
    batches: dict[str, int]  # every status, also those of no batch
    oldest_queued_s: float  # age of the job that has been in the queue the longest; 0 when it is empty
    attempts: int  # begun, of all jobs there are
    attempts_lost: int
    tokens_per_s: float  # of all running jobs together, by the last step that each reported
    workers: dict[str, int]  # state -> workers alive
    warm_workers: int  # with a base in memory
    servers: int
    deliveries: dict[str, int]  # of webhooks, in the log's 30 days: delivered, waiting, given_up


def take(session: Session) -> Census:
    rows = session.execute(select(Job.status, func.count()).group_by(Job.status))
    counted: dict[str, int] = {row[0]: row[1] for row in rows}
    rows = session.execute(select(Batch.status, func.count()).group_by(Batch.status))
    counted_batches: dict[str, int] = {row[0]: row[1] for row in rows}
    oldest = session.scalar(select(db_now() - func.min(Job.created_at)).where(Job.status == JobStatus.QUEUED))
    attempts, lost = session.execute(select(func.sum(Job.attempt), func.sum(Job.attempts_lost))).one()
    alive = workers.alive(session)
    states: dict[str, int] = {"idle": 0, "busy": 0, "draining": 0}
    for worker in alive:
        states[worker.state] = states.get(worker.state, 0) + 1
    return Census(
        jobs={status.value: counted.get(status.value, 0) for status in JobStatus},
        batches={status.value: counted_batches.get(status.value, 0) for status in BatchStatus},
        oldest_queued_s=max(oldest or 0.0, 0.0),
        attempts=attempts or 0,
        attempts_lost=lost or 0,
        tokens_per_s=_tokens_per_s(session),
        workers=states,
        warm_workers=sum(worker.resident_base is not None for worker in alive),
        servers=len(servers.alive(session)),
        deliveries=_deliveries(session),
    )


def _tokens_per_s(session: Session) -> float:
    newest = (
        select(JobEvent.job_id, func.max(JobEvent.seq).label("seq"))
        .join(Job, Job.id == JobEvent.job_id)
        .where(Job.status == JobStatus.RUNNING, JobEvent.type == "metrics")
        .group_by(JobEvent.job_id)
        .subquery()
    )
    last = select(JobEvent.data).join(newest, (newest.c.job_id == JobEvent.job_id) & (newest.c.seq == JobEvent.seq))
    return sum(float(data.get("tokens_per_s") or 0.0) for data in session.scalars(last) if data)


def _deliveries(session: Session) -> dict[str, int]:
    state = case(
        (WebhookDelivery.delivered_at.is_not(None), "delivered"),
        (WebhookDelivery.next_at.is_not(None), "waiting"),
        else_="given_up",
    )
    counted = {row[0]: row[1] for row in session.execute(select(state, func.count()).group_by(state))}
    return {name: counted.get(name, 0) for name in ("delivered", "waiting", "given_up")}
