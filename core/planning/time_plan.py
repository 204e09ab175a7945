"""How long a job will take on a worker and when it could start there, from what earlier jobs measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.bases.model_shape import ModelShape, shape_of, trainable_parameters
from core.db import db_now
from core.models import BaseModelRow, Job, JobStatus, Worker
from core.planning.data_counts import DataCounts
from core.planning.models import Throughput
from core.planning.plan import passes
from core.spec import LoraSettings, Resolved, Training

FORWARD_SHARE = 0.5  # of a training step's work, where no weight's gradient is needed: what validation takes
SUBSET_EXAMPLES = 32  # of the validation file, at each look in between
MAX_QUEUE = 1000  # jobs ahead that are looked at


@dataclass(frozen=True)
class Rate:
    tokens_per_s: float
    measured_on: str


def work_per_token(shape: ModelShape, lora: LoraSettings | None) -> float:
    """Floating-point operations of a training step for each token. Frozen weights need no gradient of their own, so
    forward and backward are 2 each; what is trained has 6."""
    if lora is None:
        return 6.0 * shape.parameters
    return 4.0 * shape.linear_parameters + 6.0 * trainable_parameters(shape, lora)


class Rates:
    """What was measured, by kind of worker."""

    def __init__(self, session: Session) -> None:
        self._measured: Sequence[Throughput] = session.scalars(
            select(Throughput).order_by(Throughput.measured_at.desc()).limit(MAX_QUEUE)
        ).all()
        wanted = {row.base_model for row in self._measured}
        self._bases = session.scalars(select(BaseModelRow).where(BaseModelRow.id.in_(wanted))).all()
        self._shapes = {row.id: shape_of(row.shape, row.parameters) for row in self._bases if row.shape}

    def of(self, device_name: str, base_model: str, shape: ModelShape, resolved: Resolved) -> Rate | None:
        """Of the same base held the same way, else of another on the same device, scaled by the work per token."""
        here = [row for row in self._measured if row.device_name == device_name and row.training == resolved.training]
        same = [row for row in here if row.base_model == base_model]
        for row in same:
            if row.quantization == resolved.quantization:
                return Rate(row.tokens_per_s, "this base on this kind of worker")
        if same:
            return Rate(same[0].tokens_per_s, f"this base with quantization {same[0].quantization} there")
        for row in here:
            if (other := self._shapes.get(row.base_model)) is not None:
                factor = work_per_token(other, resolved.lora) / work_per_token(shape, resolved.lora)
                return Rate(row.tokens_per_s * factor, f"{row.base_model} there, scaled by the work per token")
        return None


def seconds(resolved: Resolved, training: DataCounts, validation: DataCounts | None, rate: Rate) -> float:
    """Of training and validation; loading the base and publishing come to it."""
    epochs = passes(resolved, training)
    tokens = training.tokens * epochs
    if validation is not None:
        looks = resolved.total_steps // resolved.validation_every_steps
        subset = min(1.0, SUBSET_EXAMPLES / validation.examples)
        share = 1 / 3 if resolved.training is Training.FULL else FORWARD_SHARE
        tokens += share * validation.tokens * (epochs + looks * subset)
    return tokens / rate.tokens_per_s


def of_job(job: Job, shape: ModelShape, rates: Rates, device_name: str) -> float | None:
    """Seconds that a prepared job takes on such a device, by its plan's counts; None where nothing was measured."""
    plan = job.plan
    if plan is None or job.resolved is None:
        return None
    resolved = Resolved.model_validate(job.resolved)
    rate = rates.of(device_name, job.base_model, shape, resolved)
    if rate is None:
        return None
    training = DataCounts(plan["training_examples"], plan["training_tokens"], plan["supervised_tokens"], 0)
    validation = None
    if plan.get("validation_examples"):
        validation = DataCounts(plan["validation_examples"], plan["validation_tokens"], 0, 0)
    return seconds(resolved, training, validation, rate)


class Queue:
    """When each worker will be free for a job of some priority."""

    def __init__(self, session: Session, workers: Sequence[Worker], rates: Rates, priority: int) -> None:
        now = session.scalar(select(db_now())) or 0.0
        self.now = float(now)
        held = select(Job.worker_id, Job.estimated_finish).where(Job.status == JobStatus.RUNNING)
        ends = {row[0]: row[1] for row in session.execute(held)}
        # None: busy, and nobody can say until when
        self.free_in_s: dict[str, float | None] = {
            worker.id: 0.0 if worker.id not in ends else _left(ends[worker.id], self.now) for worker in workers
        }
        ahead = session.scalars(
            select(Job)
            .where(Job.status == JobStatus.QUEUED, Job.priority >= priority)
            .order_by(Job.priority.desc(), Job.created_at)
            .limit(MAX_QUEUE)
        ).all()
        wanted = {job.base_model for job in ahead}
        bases = session.scalars(select(BaseModelRow).where(BaseModelRow.id.in_(wanted))).all()
        shapes = {row.id: shape_of(row.shape, row.parameters) for row in bases if row.shape}
        for job in ahead:
            self._place(job, workers, rates, shapes)

    def _place(self, job: Job, workers: Sequence[Worker], rates: Rates, shapes: Mapping[str, ModelShape]) -> None:
        """The job goes to the worker that is free first, of those it fits."""
        fit = [w for w in workers if job.required_bytes <= w.memory_bytes and (not job.label or job.label in w.labels)]
        known = [(free, worker) for worker in fit if (free := self.free_in_s[worker.id]) is not None]
        if not known:
            return
        free, worker = min(known, key=lambda pair: pair[0])
        shape = shapes.get(job.base_model)
        taken = None if shape is None else of_job(job, shape, rates, worker.device_name)
        self.free_in_s[worker.id] = None if taken is None else free + taken


def _left(end: float | None, now: float) -> float | None:
    return None if end is None else max(0.0, end - now)


def note_throughput(
    session: Session, worker_id: str | None, base_model: str, resolved: Resolved, tokens_per_s: float
) -> None:
    """What a training that reached its end came to on this worker; the last one counts."""
    worker = session.get(Worker, worker_id)
    if worker is not None:
        session.merge(
            Throughput(
                device_name=worker.device_name, base_model=base_model, quantization=resolved.quantization.value,
                training=resolved.training.value, tokens_per_s=tokens_per_s, measured_at=db_now(),
            )
        )  # fmt: skip
