"""The plan of a job that is not made: counts and rows in, the whole answer out. Nothing is rendered here.

docs/plan.md describes the answer field by field.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy.orm import Session

from core import workers
from core.bases.model_shape import ModelShape, shape_of, trainable_parameters
from core.errors import AttuneError
from core.jobs import intake
from core.jobs.intake import Wanted
from core.models import BaseModelRow, Worker
from core.planning import memory_plan, plan, token_lengths
from core.planning.data_counts import DataCounts
from core.planning.memory_plan import Workload
from core.planning.time_plan import Queue, Rates, seconds
from core.planning.token_lengths import Fitted
from core.spec import Execution, Frozen, Hyperparameters, Method, Quantization, Resolved, Training

GIB = 1024**3
# What makes a part smaller, for the worker that it does not fit
_ADVICE = {
    "weights": "take a smaller base, or quantization nf4",
    "adapter": "lower the rank",
    "gradients": "lower the rank",
    "optimizer": "lower the rank",
    "activations": "lower max_example_tokens",
    "head": "lower max_example_tokens",
    "saving": "lower the rank",
    "runtime": "take a worker with more memory",
}


class FileCounts(Frozen):
    """Of one pass."""

    examples: int
    tokens: int
    supervised_tokens: int
    longest_tokens: int
    dropped: int = 0
    truncated: int = 0


class PlannedExecution(Frozen):
    precision: Literal["bfloat16", "float32"]
    micro_tokens: int
    checkpointing: bool
    residency: Literal["quantised", "dequantised", "plain"]  # how the base's linear layers stay in memory


class WorkerPlan(Frozen):
    worker: str
    device_name: str
    memory_bytes: int
    fits: bool
    why: str
    required_bytes: int
    memory: dict[str, int]
    execution: PlannedExecution
    packs_per_step: int
    tokens_per_s: float | None
    measured_on: str | None
    starts_in_s: float | None
    takes_s: float | None
    cost: float | None


class PlanObject(Frozen):
    object: Literal["attune.plan"] = "attune.plan"
    status: Literal["ready", "preparing"]
    model: str
    base_model: str
    method: Method
    training: FileCounts | None = None
    validation: FileCounts | None = None
    hyperparameters: Resolved | None = None
    reasons: dict[str, str] | None = None
    total_steps: int | None = None
    trained_tokens: int | None = None
    supervised_tokens: int | None = None
    trainable_parameters: int | None = None
    total_parameters: int | None = None
    trainable_share: float | None = None
    simple_trainable_parameters: int | None = None
    workers: list[WorkerPlan] | None = None
    starts_in_s: float | None = None
    takes_s: float | None = None
    starts_at: int | None = None
    finishes_at: int | None = None
    cost: float | None = None


@dataclass(frozen=True)
class Given:
    """Counts in place of files."""

    training: DataCounts
    validation: DataCounts | None


def of_files(session: Session, project_id: str, wanted: Wanted) -> PlanObject:
    """Raises AttuneError for whatever would refuse the job, or make it fail for its data."""
    checked = intake.check(session, project_id, wanted)
    base, hyper = checked.base, checked.hyperparameters
    files = [(checked.training, "training_file")]
    if checked.validation is not None:
        files.append((checked.validation, "validation_file"))
    lengths = [token_lengths.of_file(session, file, base, wanted.method, param) for file, param in files]
    if base.shape is None or any(one is None for one in lengths):
        return PlanObject(status="preparing", model=wanted.model, base_model=base.id, method=wanted.method)
    limit = plan.longest_allowed(hyper, shape_of(base.shape, base.parameters))
    fitted = [one.counts(limit, hyper.too_long) for one in lengths if one is not None]
    return _plan(session, wanted, base, hyper, fitted[0], fitted[1] if len(fitted) > 1 else None)


def of_counts(session: Session, project_id: str, wanted: Wanted, given: Given) -> PlanObject:
    """Raises AttuneError where the base or the choices do not fit."""
    base, _, hyper = intake.check_model(session, project_id, wanted)
    if base.shape is None:
        raise AttuneError(
            f"'{base.id}' has not been fetched, so its size is not known; plan with a file, which fetches it.",
            code="base_model_not_ready",
            param="model",
        )
    validation = None if given.validation is None else Fitted(given.validation, 0, 0)
    return _plan(session, wanted, base, hyper, Fitted(given.training, 0, 0), validation)


def _plan(
    session: Session,
    wanted: Wanted,
    base: BaseModelRow,
    hyper: Hyperparameters,
    training: Fitted,
    validation: Fitted | None,
) -> PlanObject:
    shape = shape_of(base.shape or {}, base.parameters)
    data, held_out = training.counts, validation.counts if validation else None
    resolved, reasons = plan.resolve(hyper, data, held_out, shape, wanted.method)
    rates, alive = Rates(session), workers.alive(session)
    queue = Queue(session, alive, rates, wanted.placement.priority)
    planned = [
        _on(worker, base, shape, resolved, data, held_out, rates, queue, wanted.placement.label) for worker in alive
    ]
    fitting = [one for one in planned if one.fits]
    first = min(
        fitting, key=lambda one: (one.starts_in_s or 0.0) + (math.inf if one.takes_s is None else one.takes_s),
        default=None,
    )  # fmt: skip
    starts = first.starts_in_s if first else None
    takes = first.takes_s if first else None
    epochs = plan.passes(resolved, data)
    trainable = trainable_parameters(shape, resolved.lora)
    is_full = resolved.training is Training.FULL
    total = shape.parameters + (0 if is_full else trainable)
    return PlanObject(
        status="ready",
        model=wanted.model,
        base_model=base.id,
        method=wanted.method,
        training=_shown(training),
        validation=_shown(validation) if validation else None,
        hyperparameters=resolved,
        reasons=reasons,
        total_steps=resolved.total_steps,
        trained_tokens=round(data.tokens * epochs),
        supervised_tokens=round(data.supervised_tokens * epochs),
        trainable_parameters=trainable,
        total_parameters=total,
        trainable_share=round(trainable / total, 6),
        simple_trainable_parameters=_simple(shape, resolved),
        workers=planned,
        starts_in_s=starts,
        takes_s=takes,
        starts_at=None if starts is None else round(queue.now + starts),
        finishes_at=None if starts is None or takes is None else round(queue.now + starts + takes),
        cost=first.cost if first else None,
    )


def _shown(fitted: Fitted) -> FileCounts:
    data = fitted.counts
    return FileCounts(
        examples=data.examples, tokens=data.tokens, supervised_tokens=data.supervised_tokens,
        longest_tokens=data.longest_tokens, dropped=fitted.dropped, truncated=fitted.truncated,
    )  # fmt: skip


def _simple(shape: ModelShape, resolved: Resolved) -> int | None:
    """2 · rank · √parameters: one square matrix of all weights, as introductions have it."""
    return None if resolved.lora is None else round(2 * resolved.lora.rank * math.sqrt(shape.parameters))


def workload_of(resolved: Resolved, data: DataCounts) -> Workload:
    pair = 2 if resolved.method is Method.DPO else 1
    return Workload(
        longest_tokens=pair * data.longest_tokens, supervised_share=data.supervised_tokens / max(data.tokens, 1)
    )


def _on(
    worker: Worker,
    base: BaseModelRow,
    shape: ModelShape,
    resolved: Resolved,
    data: DataCounts,
    validation: DataCounts | None,
    rates: Rates,
    queue: Queue,
    label: str | None,
) -> WorkerPlan:
    on_gpu = worker.device.startswith("cuda")
    least, most = memory_plan.CUDA_MICRO_TOKENS if on_gpu else memory_plan.CPU_MICRO_TOKENS
    workload = workload_of(resolved, data)
    # A CPU without 16-bit products computes in float32, which takes more: a plan for it is no promise too much
    precision: Literal["bfloat16", "float32"] = (
        "bfloat16" if on_gpu and resolved.training is Training.LORA else "float32"
    )
    execution = memory_plan.choose(
        resolved, shape, workload, Execution(precision=precision, micro_tokens=least, threads=1),
        most_tokens=most, on_gpu=on_gpu,
        room_bytes=worker.memory_bytes * (memory_plan.CUDA_SHARE if on_gpu else memory_plan.CPU_SHARE),
    )  # fmt: skip
    parts = memory_plan.memory(resolved, shape, execution, workload, on_gpu=on_gpu)
    required = sum(parts.values())
    fits, why = _verdict(worker, parts, required, label)
    rate = rates.of(worker.device_name, base.id, shape, resolved) if fits else None
    takes = None if rate is None else seconds(resolved, data, validation, rate)
    price = worker.price_per_hour
    return WorkerPlan(
        worker=worker.id,
        device_name=worker.device_name,
        memory_bytes=worker.memory_bytes,
        fits=fits,
        why=why,
        required_bytes=required,
        memory=parts,
        execution=PlannedExecution(
            precision=execution.precision, micro_tokens=execution.micro_tokens, checkpointing=execution.checkpointing,
            residency=_residency(resolved, execution),
        ),
        packs_per_step=max(1, math.ceil(data.tokens / data.examples * resolved.batch_size / execution.micro_tokens)),
        tokens_per_s=rate and round(rate.tokens_per_s, 1),
        measured_on=rate and rate.measured_on,
        starts_in_s=queue.free_in_s[worker.id] if fits else None,
        takes_s=None if takes is None else round(takes, 1),
        cost=None if takes is None or price is None else round(takes / 3600 * price, 4),
    )  # fmt: skip


def _residency(resolved: Resolved, execution: Execution) -> Literal["quantised", "dequantised", "plain"]:
    if resolved.quantization is Quantization.NONE:
        return "plain"
    return "dequantised" if execution.dequantised else "quantised"


def _verdict(worker: Worker, parts: dict[str, int], required: int, label: str | None) -> tuple[bool, str]:
    if label is not None and label not in worker.labels:
        return False, f"the job asks for a worker labelled '{label}'"
    if required <= worker.memory_bytes:
        return True, f"needs {required / GIB:.1f} GiB of {worker.memory_bytes / GIB:.1f} GiB"
    largest = max(parts, key=lambda name: parts[name])
    return False, (
        f"needs {required / GIB:.1f} GiB, and has {worker.memory_bytes / GIB:.1f} GiB; the largest part is {largest} "
        f"({parts[largest] / GIB:.1f} GiB): {_ADVICE[largest]}"
    )


def summary(resolved: Resolved, shape: ModelShape, data: DataCounts, validation: DataCounts | None) -> dict[str, Any]:
    """What a prepared job keeps of its plan, and `memory_bytes` of the least that a worker needs for it."""
    least = Execution(precision="bfloat16", micro_tokens=memory_plan.LEAST_MICRO_TOKENS, threads=1, checkpointing=True)
    return {
        "training_examples": data.examples,
        "training_tokens": data.tokens,
        "supervised_tokens": data.supervised_tokens,
        "validation_examples": validation.examples if validation else 0,
        "validation_tokens": validation.tokens if validation else 0,
        "longest_example_tokens": data.longest_tokens,
        "dropped_examples": len(data.dropped_lines),
        "truncated_examples": len(data.truncated_lines),
        "total_steps": resolved.total_steps,
        "trainable_parameters": trainable_parameters(shape, resolved.lora),
        "memory_bytes": memory_plan.memory(resolved, shape, least, workload_of(resolved, data)),
    }
