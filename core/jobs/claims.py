"""The right to work on a job: claim, beat, report, finish, lose. Every write carries the attempt it belongs to.

A claim is one UPDATE that adds one to `attempt` and sets a lease by the database's clock. A later write that
matches no row means that the lease is lost: the caller kills its engine and writes nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, Update, func, literal, or_, select, update
from sqlalchemy.orm import Session

from core.db import db_now
from core.jobs.jobs import NewEvent, add_events, move
from core.models import Checkpoint, File, Job, JobEvent, JobStatus, Model, Snapshot
from core.planning import measured_run
from core.planning.measured_run import MeasuredRun
from core.protocol import FinalReport
from core.serving.alias_models import ModelAlias
from core.spec import Execution, Resolved
from core.webhooks import outbox

STARVE_S = 120.0  # a job that has waited this long goes before one whose base happens to be resident


@dataclass(frozen=True)
class Claim:
    """A job as it was at the claim, and the attempt that every write of this claim carries."""

    job: Job
    attempt: int

    @property
    def job_id(self) -> str:
        return self.job.id

    @property
    def object_id(self) -> str:
        return self.job.id

    def beat(self, session: Session, lease_s: float) -> Flags | None:
        """Renew the lease; None when it is lost."""
        found = _flags(session, _fenced(self).values(lease_until=db_now() + lease_s))
        return found and found[0]


@dataclass(frozen=True)
class WorkerFacts:
    """What decides whether a job fits a worker."""

    id: str
    memory_bytes: int
    labels: tuple[str, ...] = ()
    resident_base: str | None = None


@dataclass(frozen=True)
class Flags:
    """What the user or the clock wants of a running job."""

    cancel: bool
    pause: bool
    over_time: bool


def claim_preparation(session: Session, holder: str, lease_s: float) -> Claim | None:
    """Claim the oldest job whose files are to be validated."""
    found = _oldest(
        session,
        Job.status == JobStatus.VALIDATING_FILES,
        Job.lease_until.is_(None),  # an ended lease is first counted as a loss, by the janitor
        Job.not_before <= db_now(),
    )
    return found and _claim(session, found.id, JobStatus.VALIDATING_FILES, holder, lease_s, [])


def claim_training(session: Session, worker: WorkerFacts, lease_s: float) -> Claim | None:
    """Claim the best queued job that fits: priority, then the long waiting, then a resident base, then age."""
    fits = (
        Job.status == JobStatus.QUEUED,
        Job.not_before <= db_now(),
        Job.required_bytes <= worker.memory_bytes,
        or_(Job.label.is_(None), Job.label.in_(worker.labels)),
    )
    found = _oldest(session, *fits)
    if found is None:
        return None
    if worker.resident_base not in (None, found.base_model) and not found.is_starving:
        same = (Job.priority == found.priority, Job.base_model == worker.resident_base)
        found = _first(session, *fits, *same) or found
    event = NewEvent("Fine-tuning job started", data=None)
    return _claim(session, found.id, JobStatus.QUEUED, worker.id, lease_s, [event])


@dataclass(frozen=True)
class _Candidate:
    id: str
    base_model: str
    priority: int
    is_starving: bool


def _oldest(session: Session, *fits: ColumnElement[bool]) -> _Candidate | None:
    """The oldest of the highest priority, locked.

    Two walks along an index on status, priority and time, one backward and one forward: sorting the queue at every
    claim would make a long queue a slow one.
    """
    highest = select(Job.priority).where(*fits).order_by(Job.priority.desc()).limit(1)
    # locked, so that the second walk finds one at least
    priority = session.scalar(highest.with_for_update(skip_locked=True))
    return None if priority is None else _first(session, *fits, Job.priority == priority)


def _first(session: Session, *conditions: ColumnElement[bool]) -> _Candidate | None:
    is_starving = Job.created_at < db_now() - STARVE_S
    query = select(Job.id, Job.base_model, Job.priority, is_starving).where(*conditions)
    row = session.execute(
        query.order_by(Job.created_at, Job.id).limit(1).with_for_update(skip_locked=True)
    ).one_or_none()
    return None if row is None else _Candidate(row[0], row[1], row[2], bool(row[3]))


def _claim(
    session: Session, job_id: str, source: JobStatus, holder: str, lease_s: float, events: list[NewEvent]
) -> Claim | None:
    target = JobStatus.RUNNING if source == JobStatus.QUEUED else source
    started: dict[str, Any] = {}
    if target == JobStatus.RUNNING:
        started = {"started_at": func.coalesce(Job.started_at, db_now()), "attempt_started_at": db_now()}
    job = session.scalars(
        update(Job)
        .where(Job.id == job_id, Job.status == source)
        .values(
            status=target,
            attempt=Job.attempt + 1,
            lease_until=db_now() + lease_s,
            worker_id=holder,
            event_seq=Job.event_seq + len(events),
            **started,
        )
        .returning(Job)
        .execution_options(synchronize_session=False, populate_existing=True)
    ).one_or_none()
    if job is None:
        return None
    add_events(session, job.id, job.event_seq, events)
    if target != source:
        outbox.status_moved(session, job)
    return Claim(job, job.attempt)


def mine(claim: Claim) -> list[ColumnElement[bool]]:
    """The fence: this job, this attempt, still in the state that the claim put it in, its lease not ended.

    A preparation that was lost stays in its state and, until it is claimed again, at its attempt.
    """
    return [
        Job.id == claim.job_id,
        Job.attempt == claim.attempt,
        Job.status == claim.job.status,
        Job.lease_until.is_not(None),
    ]


def _fenced(claim: Claim) -> Update:
    return update(Job).where(*mine(claim))


_OVER_TIME = func.coalesce(Job.spent_s + db_now() - Job.attempt_started_at > Job.max_duration_s, literal(False))


def _flags(session: Session, statement: Update) -> tuple[Flags, int] | None:
    row = session.execute(
        statement.returning(Job.cancel_requested, Job.pause_requested, _OVER_TIME, Job.event_seq).execution_options(
            synchronize_session=False
        )
    ).one_or_none()
    return None if row is None else (Flags(bool(row[0]), bool(row[1]), bool(row[2])), int(row[3]))


def report(
    session: Session,
    claim: Claim,
    events: Sequence[NewEvent] = (),
    *,
    reported_step: int | None = None,
    seconds_left: float | None = None,
    **values: Any,
) -> Flags | None:
    """Write events and progress; None when the lease is lost, and then nothing was written."""
    if reported_step is not None:
        values["reported_step"] = reported_step
    if seconds_left is not None:
        values["estimated_finish"] = db_now() + seconds_left
    found = _flags(session, _fenced(claim).values(event_seq=Job.event_seq + len(events), **values))
    if found is None:
        return None
    add_events(session, claim.job_id, found[1], events)
    return found[0]


def prepared(
    session: Session,
    claim: Claim,
    *,
    resolved: Resolved,
    reasons: dict[str, str],
    plan: dict[str, Any],
    required_bytes: int,
    template_date: str,
    warnings: Sequence[str] = (),
) -> bool:
    """validating_files -> queued, with every auto resolved. False when the lease is lost."""
    events = [NewEvent(text, level="warn") for text in warnings]
    events.append(NewEvent("Files validated, moving job to queued state"))
    job = move(
        session, claim.job_id, JobStatus.QUEUED, events, *mine(claim),
        sources=(JobStatus.VALIDATING_FILES,),
        resolved=resolved.model_dump(mode="json"), reasons=reasons, plan=plan, required_bytes=required_bytes,
        total_steps=resolved.total_steps, template_date=template_date,
        lease_until=None, worker_id=None, losses=0, loss_step=-1, not_before=0.0,
    )  # fmt: skip
    return job is not None


def started(
    session: Session, claim: Claim, *, execution: Execution, run: MeasuredRun, template_hash: str, total_steps: int
) -> Flags | None:
    """Fix the first claim's execution choices; a later attempt finds them in its task."""
    return report(
        session,
        claim,
        execution=execution.model_dump(mode="json"),
        plan=measured_run.beside_plan(claim.job, run),
        template_hash=template_hash,
        total_steps=total_steps,
    )


def add_snapshot(session: Session, claim: Claim, snapshot: Snapshot, keep: int) -> tuple[Flags, list[str]] | None:
    """Name a stored snapshot; returns the storage keys of those it makes superfluous."""
    flags = report(session, claim, snapshot_step=snapshot.step)
    if flags is None:
        return None
    if session.get(Snapshot, (snapshot.job_id, snapshot.step, snapshot.attempt)) is not None:
        return flags, []  # tried again after a commit whose answer was lost
    session.add(snapshot)
    session.flush()
    newest_first = session.scalars(
        select(Snapshot).where(Snapshot.job_id == claim.job_id).order_by(Snapshot.step.desc(), Snapshot.attempt.desc())
    ).all()
    for old in newest_first[keep:]:
        session.delete(old)
    return flags, [old.storage_key for old in newest_first[keep:]]


def add_checkpoint(
    session: Session, claim: Claim, model: Model, checkpoint: Checkpoint, keep: int, samples: Sequence[NewEvent] = ()
) -> Flags | None:
    """Publish a checkpoint's model, and end those that retention does not keep (the janitor removes their objects)."""
    if has_checkpoint(session, claim.job_id, checkpoint.step):
        return report(session, claim)  # tried again after a commit whose answer was lost
    event = NewEvent(f"Checkpoint created at step {checkpoint.step} with Snapshot ID: {model.id}")
    flags = report(session, claim, [event, *samples])
    if flags is None:
        return None
    session.add(model)
    session.flush()
    session.add(checkpoint)
    session.flush()
    outbox.checkpoint_created(session, claim.job_id, checkpoint.id, model.id)
    newest_first = session.scalars(
        select(Model)
        .where(Model.job_id == claim.job_id, Model.is_checkpoint, Model.deleted_at.is_(None))
        .order_by(Model.step.desc())
    ).all()
    checkpoints = [row.id for row in newest_first]
    in_use = set(session.scalars(select(Job.model).where(Job.model.in_(checkpoints))))
    in_use |= set(session.scalars(select(ModelAlias.target).where(ModelAlias.target.in_(checkpoints))))
    ended = [row for row in newest_first[keep:] if row.id not in in_use]
    for row in ended:
        session.execute(update(Model).where(Model.id == row.id).values(deleted_at=db_now()))
    return flags


def has_checkpoint(session: Session, job_id: str, step: int) -> bool:
    """Whether an earlier attempt has published this step already."""
    found = select(Checkpoint.id).where(Checkpoint.job_id == job_id, Checkpoint.step == step)
    return session.scalar(found) is not None


def spent_s() -> ColumnElement[float]:
    return Job.spent_s + func.coalesce(db_now() - Job.attempt_started_at, 0.0)


def succeed(
    session: Session,
    claim: Claim,
    model: Model,
    checkpoint: Checkpoint,
    result_files: Sequence[File],
    trained_tokens: int,
    *,
    final: FinalReport,
    samples: Sequence[NewEvent] = (),
    integrations: list[dict[str, Any]] | None = None,
) -> bool:
    """running -> succeeded: the model, its last checkpoint, the result files (the metrics first) and the status in
    one transaction.

    A step that was a checkpoint already (the best, of a run that was stopped early) stays it.
    """
    session.add(model)
    session.add_all(result_files)
    session.flush()
    known = has_checkpoint(session, claim.job_id, checkpoint.step)
    events = [
        *([] if known else samples),
        NewEvent(f"New fine-tuned model created: {model.id}"),
        NewEvent("The job has successfully completed"),
    ]
    job = move(
        session, claim.job_id, JobStatus.SUCCEEDED, events, *mine(claim),
        fine_tuned_model=model.id, result_files=[file.id for file in result_files], trained_tokens=trained_tokens,
        report=final.model_dump(mode="json"), integrations=integrations, finished_at=db_now(),
        estimated_finish=None, lease_until=None, spent_s=spent_s(),
    )  # fmt: skip
    if job is None:
        session.rollback()
        return False
    if not known:
        session.add(checkpoint)
    return True


def fail(session: Session, claim: Claim, *, code: str, message: str, param: str | None = None) -> bool:
    """validating_files or running -> failed, with the contract's error object."""
    event = NewEvent(message, level="error", data={"error_code": code, "error_param": param})
    job = move(
        session, claim.job_id, JobStatus.FAILED, [event], *mine(claim),
        error={"code": code, "message": message, "param": param},
        finished_at=db_now(), estimated_finish=None, lease_until=None, spent_s=spent_s(),
    )  # fmt: skip
    return job is not None


def stop(session: Session, claim: Claim, why: Literal["cancelled", "paused", "drained"]) -> bool:
    """running -> cancelled, paused, or back to queued because the worker was told to end."""
    target, text = {
        "cancelled": (JobStatus.CANCELLED, "The job was cancelled"),
        "paused": (JobStatus.PAUSED, "The job was paused"),
        "drained": (JobStatus.QUEUED, "The worker was told to stop; the job is queued again"),
    }[why]
    values: dict[str, Any] = {"pause_requested": False} if why == "paused" else {}
    if why == "cancelled":
        values["finished_at"] = db_now()
    job = move(
        session, claim.job_id, target, [NewEvent(text)], *mine(claim),
        lease_until=None, worker_id=None, estimated_finish=None, spent_s=spent_s(), **values,
    )  # fmt: skip
    return job is not None


def reported_step(session: Session, job_id: str) -> int:
    """The last step whose metrics are written."""
    return session.scalar(select(Job.reported_step).where(Job.id == job_id)) or 0


def reported_losses(session: Session, job_id: str, after_step: int, execution: Execution) -> dict[int, float]:
    """step -> training loss as first reported, for the steps that a resumed run repeats. None for one that is executed
    otherwise since, whose losses are the same but for their last digits."""
    made_with = session.scalar(select(Job.execution).where(Job.id == job_id))
    if made_with is not None and Execution.model_validate(made_with) != execution:
        return {}
    rows = session.scalars(
        select(JobEvent.data).where(JobEvent.job_id == job_id, JobEvent.type == "metrics").order_by(JobEvent.seq.desc())
    )
    losses: dict[int, float] = {}
    for data in rows:
        if data is None or data["step"] <= after_step:
            break
        losses[data["step"]] = data["train_loss"]
    return losses
