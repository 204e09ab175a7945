"""New events of many jobs at once, for those who listen: a look costs two queries, few or many."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session

from core.errors import AttuneError
from core.models import TERMINAL, Job, JobEvent

_AT_ONCE = 200  # SQLite bounds the depth of an expression


@dataclass(frozen=True)
class Standing:
    """How far a job is: its newest event, and whether there will be another."""

    seq: int
    is_over: bool


def standings(session: Session, job_ids: Collection[str]) -> dict[str, Standing]:
    """Of those of the jobs that exist."""
    rows = session.execute(select(Job.id, Job.event_seq, Job.status).where(Job.id.in_(job_ids)))
    return {job_id: Standing(seq, status in TERMINAL) for job_id, seq, status in rows}


def events_since(session: Session, last_seqs: Mapping[str, int], limit: int) -> list[JobEvent]:
    """Events of each job after its last seq, in order of seq; `limit` of each 200 jobs."""
    found: list[JobEvent] = []
    items = list(last_seqs.items())
    for start in range(0, len(items), _AT_ONCE):
        some = items[start : start + _AT_ONCE]
        later = or_(*(and_(JobEvent.job_id == job_id, JobEvent.seq > seq) for job_id, seq in some))
        found += session.scalars(select(JobEvent).where(later).order_by(JobEvent.job_id, JobEvent.seq).limit(limit))
    return found


def seq_of(session: Session, job_id: str, event: str) -> int:
    """The number of an event, given as its number or its id. Raises the 400 of one that the job does not have."""
    if event.isascii() and event.isdecimal() and len(event) <= 9:
        return int(event)
    seq = session.scalar(select(JobEvent.seq).where(JobEvent.job_id == job_id, JobEvent.id == event))
    if seq is None:
        raise AttuneError(
            f"No such event with id {event[:64]} in job {job_id}", param="Last-Event-ID", code="invalid_cursor"
        )
    return seq
