"""The objects of fine-tuning as OpenAI's clients know them; what is ours stands in `attune`."""

from __future__ import annotations

from typing import Any, Literal

from api.shapes.wire import Page, Shown
from core.models import Checkpoint, Job, JobEvent, JobStatus
from core.planning import measured_run
from core.planning.measured_run import MeasuredRun
from core.protocol import FinalReport
from core.spec import Hyperparameters, JobSpec, Method, Resolved, ShownDpoHyperparameters, ShownHyperparameters


class JobError(Shown):
    """Null while there is none: the official clients refuse an error without code and message."""

    code: str
    message: str
    param: str | None = None


class SupervisedShown(Shown):
    hyperparameters: ShownHyperparameters


class DpoShown(Shown):
    hyperparameters: ShownDpoHyperparameters


class MethodShown(Shown):
    type: Literal["supervised", "dpo"]
    supervised: SupervisedShown | None = None
    dpo: DpoShown | None = None


class Progress(Shown):
    step: int  # last reported optimizer step
    total_steps: int | None
    snapshot_step: int  # where a lost attempt would go on


class JobAttune(Shown):
    base_model: str
    requested: Hyperparameters
    resolved: Resolved | None
    reasons: dict[str, str] | None
    plan: dict[str, Any] | None
    execution: dict[str, Any] | None
    run: MeasuredRun | None  # what it was planned to take where it trains, and what it took
    template_hash: str | None
    report: FinalReport | None  # of a job that has succeeded
    priority: int
    label: str | None
    max_duration_s: float | None
    spent_s: float  # training time of ended attempts
    attempt: int
    attempts_lost: int  # ended without a result, by a crash or a lost worker
    worker: str | None
    progress: Progress
    started_at: int | None
    cancel_requested: bool
    pause_requested: bool
    integrations: list[dict[str, Any]] | None  # those that OpenAI has not, with the run that each became


class JobObject(Shown):
    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    error: JobError | None
    fine_tuned_model: str | None
    finished_at: int | None
    hyperparameters: ShownHyperparameters  # of any method: the official client demands an object
    model: str
    organization_id: str
    result_files: list[str]
    status: str
    trained_tokens: int | None
    training_file: str
    validation_file: str | None
    seed: int
    estimated_finish: int | None
    integrations: list[dict[str, Any]] | None
    metadata: dict[str, str] | None
    method: MethodShown
    user_provided_suffix: str | None
    attune: JobAttune


class EventObject(Shown):
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    id: str
    created_at: int
    level: str
    message: str
    type: str
    data: dict[str, Any] | None


class CheckpointMetrics(Shown):
    step: int
    train_loss: float | None = None
    train_mean_token_accuracy: float | None = None
    valid_loss: float | None = None
    valid_mean_token_accuracy: float | None = None
    full_valid_loss: float | None = None
    full_valid_mean_token_accuracy: float | None = None


class CheckpointObject(Shown):
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    id: str
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    step_number: int
    metrics: CheckpointMetrics


class JobList(Shown):
    object: Literal["list"] = "list"
    data: list[JobObject]
    has_more: bool


class EventList(Shown):
    object: Literal["list"] = "list"
    data: list[EventObject]
    has_more: bool


class CheckpointList(Page[CheckpointObject]):
    pass


def seconds(time: float | None) -> int | None:
    """Whole seconds since the epoch, as OpenAI's objects have them."""
    return None if time is None else int(time)


def _basic(chosen: Resolved | Hyperparameters) -> ShownHyperparameters:
    return ShownHyperparameters(
        n_epochs=chosen.n_epochs,
        batch_size=chosen.batch_size,
        learning_rate_multiplier=chosen.learning_rate_multiplier,
    )


def _method(method: Method, chosen: Resolved | Hyperparameters) -> MethodShown:
    basic = _basic(chosen)
    if method is Method.SUPERVISED:
        return MethodShown(type="supervised", supervised=SupervisedShown(hyperparameters=basic))
    assert chosen.beta is not None
    shown = ShownDpoHyperparameters(**basic.model_dump(), beta=chosen.beta)
    return MethodShown(type="dpo", dpo=DpoShown(hyperparameters=shown))


def _integrations(job: Job, name: Literal["integrations", "attune_integrations"]) -> list[dict[str, Any]] | None:
    """As asked for, with what became of each: OpenAI's first, then ours."""
    asked: list[dict[str, Any]] | None = job.request.get(name)
    if not asked or job.integrations is None:
        return asked
    return job.integrations[: len(asked)] if name == "integrations" else job.integrations[-len(asked) :]


def show_job(job: Job) -> JobObject:
    resolved = None if job.resolved is None else Resolved.model_validate(job.resolved)
    spec = JobSpec.model_validate(job.spec)
    chosen = resolved or spec.hyperparameters
    return JobObject(
        id=job.id,
        created_at=int(job.created_at),
        error=None if job.error is None else JobError.model_validate(job.error),
        fine_tuned_model=job.fine_tuned_model,
        finished_at=seconds(job.finished_at),
        hyperparameters=_basic(chosen),
        model=job.model,
        organization_id=job.project_id,
        result_files=job.result_files,
        status=job.status,
        trained_tokens=job.trained_tokens,
        training_file=job.training_file,
        validation_file=job.validation_file,
        seed=job.seed,
        estimated_finish=seconds(job.estimated_finish) if job.status == JobStatus.RUNNING else None,
        integrations=_integrations(job, "integrations"),
        metadata=job.user_metadata,
        method=_method(spec.method, chosen),
        user_provided_suffix=job.suffix,
        attune=JobAttune(
            base_model=job.base_model,
            requested=spec.hyperparameters,
            resolved=resolved,
            reasons=job.reasons,
            plan=measured_run.plan_of(job),
            execution=job.execution,
            run=measured_run.of_job(job),
            template_hash=job.template_hash,
            report=None if job.report is None else FinalReport.model_validate(job.report),
            priority=job.priority,
            label=job.label,
            max_duration_s=job.max_duration_s,
            spent_s=round(job.spent_s, 3),
            attempt=job.attempt,
            attempts_lost=job.attempts_lost,
            worker=job.worker_id if job.status == JobStatus.RUNNING else None,
            progress=Progress(step=job.reported_step, total_steps=job.total_steps, snapshot_step=job.snapshot_step),
            started_at=seconds(job.started_at),
            cancel_requested=job.cancel_requested,
            pause_requested=job.pause_requested,
            integrations=_integrations(job, "attune_integrations"),
        ),
    )


def show_event(event: JobEvent) -> EventObject:
    return EventObject(
        id=event.id,
        created_at=int(event.created_at),
        level=event.level,
        message=event.message,
        type=event.type,
        data=event.data,
    )


def show_checkpoint(checkpoint: Checkpoint) -> CheckpointObject:
    metrics = {key: value for key, value in checkpoint.metrics.items() if key in CheckpointMetrics.model_fields}
    return CheckpointObject(
        id=checkpoint.id,
        created_at=int(checkpoint.created_at),
        fine_tuned_model_checkpoint=checkpoint.model_id,
        fine_tuning_job_id=checkpoint.job_id,
        step_number=checkpoint.step,
        metrics=CheckpointMetrics.model_validate({"step": checkpoint.step, **metrics}),
    )
