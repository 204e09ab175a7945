"""The life of a job: one function for each edge of `core.models.TRANSITIONS` that a user or preparation takes.

An edge is one compare-and-set UPDATE, its event rows and its outbox row, in the caller's transaction. What a
worker does under its claim is in `core.jobs.claims`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from sqlalchemy import ColumnElement, Table, bindparam, insert, select, tuple_, update
from sqlalchemy.orm import Session

from core import ids
from core.db import db_now
from core.errors import AttuneError, NotFound
from core.models import TRANSITIONS, File, Job, JobEvent, JobStatus
from core.spec import JobSpec
from core.webhooks import outbox

Level = Literal["info", "warn", "error"]
# Inserted as rows: a session's bookkeeping for an object costs more than the insert, and these are made often
_JOBS, _EVENTS = cast(Table, Job.__table__), cast(Table, JobEvent.__table__)
_CREATE = insert(_JOBS).returning(*_JOBS.columns)


@dataclass(frozen=True)
class NewEvent:
    """An event before it has its number."""

    message: str
    level: Level = "info"
    type: Literal["message", "metrics"] = "message"
    data: dict[str, Any] | None = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Placement:
    """Where and how long a job may run. `priority`: higher first. `label`: of the worker it needs."""

    priority: int = 0
    label: str | None = None
    max_duration_s: float | None = None


@dataclass(frozen=True)
class NewJob:
    """A job before its row is written: `values` of the row, and its first events."""

    values: dict[str, Any]
    events: Sequence[NewEvent]


def new(
    *,
    project_id: str,
    spec: JobSpec,
    model: str,
    suffix: str | None,
    request: dict[str, Any],
    metadata: dict[str, str] | None,
    placement: Placement,
    warnings: Sequence[str] = (),
) -> NewJob:
    """In `validating_files`."""
    job_id = ids.job_id()
    files = f"training file: {spec.training_file}"
    if spec.validation_file:
        files += f" and validation file: {spec.validation_file}"
    events = [
        NewEvent(f"Created fine-tuning job: {job_id}"),
        *(NewEvent(text, level="warn") for text in warnings),
        NewEvent(f"Validating {files}"),
    ]
    values = {
        "id": job_id,
        "project_id": project_id,
        "status": JobStatus.VALIDATING_FILES,
        "base_model": spec.base_model,
        "model": model,
        "spec": spec.model_dump(mode="json"),
        "training_file": spec.training_file,
        "validation_file": spec.validation_file,
        "suffix": suffix,
        "seed": spec.seed,
        "request": request,
        "user_metadata": metadata,
        "priority": placement.priority,
        "label": placement.label,
        "max_duration_s": placement.max_duration_s,
        "event_seq": len(events),
    }
    return NewJob(values, events)


def create(session: Session, several: Sequence[NewJob]) -> list[Job]:
    """Write them with their events: each as its row is, and no part of the session."""
    if not several:
        return []
    rows = session.execute(_CREATE, [one.values for one in several]).mappings().all()
    events = [event for one in several for event in _numbered(one.values["id"], len(one.events), one.events)]
    session.execute(insert(_EVENTS), events)
    made = {row["id"]: Job(**row) for row in rows}
    return [made[one.values["id"]] for one in several]


def add_events(session: Session, job_id: str, last_seq: int, events: Sequence[NewEvent]) -> None:
    """Write `events` with the numbers that end at `last_seq`, which the job's row has already handed out."""
    if events:
        session.execute(insert(_EVENTS), _numbered(job_id, last_seq, events))


def _numbered(job_id: str, last_seq: int, events: Sequence[NewEvent]) -> list[dict[str, Any]]:
    first = last_seq - len(events) + 1
    return [
        {
            "job_id": job_id,
            "seq": seq,
            "id": ids.event_id(job_id, seq),
            "level": event.level,
            "type": event.type,
            "message": event.message,
            "data": event.data,
        }
        for seq, event in enumerate(events, first)
    ]


def move(
    session: Session,
    job_id: str,
    target: JobStatus,
    events: Sequence[NewEvent],
    *conditions: ColumnElement[bool],
    sources: Sequence[JobStatus] = (),
    **values: Any,
) -> Job | None:
    """Take one edge to `target` by compare-and-set; None when the row was not in a state that allows it."""
    allowed = [source for source, targets in TRANSITIONS.items() if target in targets]
    statement = (
        update(Job)
        .where(Job.id == job_id, Job.status.in_(sources or allowed), *conditions)
        .values(status=target, event_seq=Job.event_seq + len(events), **values)
        .returning(Job)
        .execution_options(synchronize_session=False, populate_existing=True)
    )
    job = session.scalars(statement).one_or_none()
    if job is not None:
        add_events(session, job_id, job.event_seq, events)
        outbox.status_moved(session, job)
    return job


# Built once: whoever watches a job asks it several times a second
_ONE = (
    select(Job)
    .where(Job.id == bindparam("job_id"), Job.project_id == bindparam("project_id"))
    .execution_options(populate_existing=True)
)
_AMONG = (Job.id.in_(bindparam("job_ids", expanding=True)), Job.project_id == bindparam("project_id"))
_SEVERAL = select(Job).where(*_AMONG)
_THERE = select(Job.id).where(*_AMONG)


def get(session: Session, project_id: str, job_id: str) -> Job:
    """The project's job. Raises NotFound in OpenAI's words."""
    job = session.scalar(_ONE, {"job_id": job_id, "project_id": project_id})
    if job is None:
        raise not_found(job_id)
    return job


def not_found(job_id: str) -> NotFound:
    return NotFound(f"Could not find fine tune: {job_id}", code="fine_tune_not_found", param="fine_tune_id")


def page(
    session: Session,
    project_id: str,
    *,
    after: str | None,
    limit: int,
    metadata: dict[str, str] | None = None,
    without_metadata: bool = False,
) -> tuple[list[str], bool]:
    """(the ids of up to `limit` jobs, newest first, after the job `after`; whether there are more)."""
    query = select(Job.id).where(Job.project_id == project_id)
    if after is not None:
        cursor = session.scalar(select(Job).where(Job.id == after, Job.project_id == project_id))
        if cursor is None:
            raise AttuneError(f"No such fine-tuning job with id {after}", param="after", code="invalid_cursor")
        query = query.where(tuple_(Job.created_at, Job.id) < tuple_(cursor.created_at, cursor.id))
    for key, value in (metadata or {}).items():
        query = query.where(Job.user_metadata[key].as_string() == value)
    if without_metadata:
        query = query.where(Job.user_metadata.is_(None))
    found = session.scalars(query.order_by(Job.created_at.desc(), Job.id.desc()).limit(limit + 1)).all()
    return list(found[:limit]), len(found) > limit


def several(session: Session, project_id: str, job_ids: Sequence[str]) -> Sequence[Job]:
    """Those jobs of the project that there are, in any order."""
    return session.scalars(_SEVERAL, {"job_ids": job_ids, "project_id": project_id}).all() if job_ids else []


def there(session: Session, project_id: str, job_ids: Collection[str]) -> Sequence[str]:
    """Which of `job_ids` the project has."""
    asked = {"job_ids": list(job_ids), "project_id": project_id}
    return session.scalars(_THERE, asked).all() if job_ids else []


def events_page(session: Session, job: Job, *, after: str | None, limit: int) -> tuple[list[JobEvent], bool]:
    """(up to `limit` events, newest first, after the event `after`; whether there are more)."""
    query = select(JobEvent).where(JobEvent.job_id == job.id)
    if after is not None:
        seq = session.scalar(select(JobEvent.seq).where(JobEvent.job_id == job.id, JobEvent.id == after))
        if seq is None:
            raise AttuneError(f"No such event with id {after} in job {job.id}", param="after", code="invalid_cursor")
        query = query.where(JobEvent.seq < seq)
    rows = session.scalars(query.order_by(JobEvent.seq.desc()).limit(limit + 1)).all()
    return list(rows[:limit]), len(rows) > limit


def cancel(session: Session, project_id: str, job_id: str) -> Job:
    """Cancel at once what no worker holds; ask the worker of a running job. Cancelling twice is no error."""
    get(session, project_id, job_id)
    waiting = (JobStatus.VALIDATING_FILES, JobStatus.QUEUED, JobStatus.PAUSED)
    event = NewEvent("The job was cancelled")
    ended = {"finished_at": db_now(), "lease_until": None}
    job = (
        move(session, job_id, JobStatus.CANCELLED, [event], sources=waiting, **ended)
        or _ask(session, job_id, cancel_requested=True)
        # lost by its worker and queued again between the two
        or move(session, job_id, JobStatus.CANCELLED, [event], sources=waiting, **ended)
        or get(session, project_id, job_id)
    )
    if job.status not in (JobStatus.CANCELLED, JobStatus.RUNNING):
        raise AttuneError(
            f"Job {job_id} has already {job.status}; only an unfinished job can be cancelled.",
            code="job_not_cancellable",
            param="fine_tuning_job_id",
        )
    return job


def pause(session: Session, project_id: str, job_id: str) -> Job:
    """Hold a queued job back, or ask the worker of a running one to save a snapshot and stop."""
    get(session, project_id, job_id)
    event = NewEvent("The job was paused")
    job = (
        move(session, job_id, JobStatus.PAUSED, [event], sources=(JobStatus.QUEUED,))
        or _ask(session, job_id, pause_requested=True)
        or move(session, job_id, JobStatus.PAUSED, [event], sources=(JobStatus.QUEUED,))
        or get(session, project_id, job_id)
    )
    if job.status not in (JobStatus.PAUSED, JobStatus.RUNNING):
        raise AttuneError(
            f"Job {job_id} is {job.status}; only a queued or running job can be paused.",
            code="job_not_pausable",
            param="fine_tuning_job_id",
        )
    return job


def _ask(session: Session, job_id: str, **flag: bool) -> Job | None:
    """Leave word for the worker of a running job, which its next fenced write brings back."""
    return session.scalars(
        update(Job)
        .where(Job.id == job_id, Job.status == JobStatus.RUNNING)
        .values(**flag)
        .returning(Job)
        .execution_options(synchronize_session=False, populate_existing=True)
    ).one_or_none()


def resume(session: Session, project_id: str, job_id: str) -> Job:
    """Put a paused job back into the queue; it goes on from its newest snapshot."""
    get(session, project_id, job_id)
    resumed = move(
        session,
        job_id,
        JobStatus.QUEUED,
        [NewEvent("The job was resumed and is queued")],
        sources=(JobStatus.PAUSED,),
        pause_requested=False,
        not_before=0.0,
    )
    job = resumed or get(session, project_id, job_id)
    if resumed is None and job.status not in (JobStatus.QUEUED, JobStatus.RUNNING):
        raise AttuneError(
            f"Job {job_id} is {job.status}; only a paused job can be resumed.",
            code="job_not_resumable",
            param="fine_tuning_job_id",
        )
    return job


def using_file(session: Session, project_id: str, file_id: str) -> str | None:
    """The id of an unfinished job that needs this file, if there is one."""
    unfinished = [status for status, targets in TRANSITIONS.items() if targets]
    return session.scalar(
        select(Job.id)
        .where(
            Job.project_id == project_id,
            Job.status.in_(unfinished),
            (Job.training_file == file_id) | (Job.validation_file == file_id),
        )
        .limit(1)
    )


def files_of(session: Session, job: Job) -> tuple[File, File | None]:
    """(training file, validation file) of a job. Raises NotFound when one was deleted."""
    found: list[File | None] = []
    for file_id in (job.training_file, job.validation_file):
        row = session.get(File, file_id) if file_id else None
        if file_id and (row is None or row.deleted_at is not None or row.project_id != job.project_id):
            raise NotFound(f"No such File object: {file_id}", code="file_not_found")
        found.append(row)
    training, validation = found
    assert training is not None
    return training, validation
