"""A run beside its plan: what it was planned to take on the device that has it, and what it took.

It is made anew by every attempt, and lies with the job's plan, under `run`.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from core.bases.model_shape import shape_of
from core.models import BaseModelRow, Job
from core.planning import time_plan
from core.protocol import Started
from core.spec import Frozen

_RUN = "run"


class MeasuredRun(Frozen):
    device: str
    device_name: str
    planned_memory_bytes: dict[str, int]  # by part, for the execution that it runs with
    peak_memory_bytes: int | None = None  # of this attempt; on a GPU without the part `runtime`
    planned_s: float | None  # of training and validation; None where nothing had been measured on such a device
    trained_s: float = 0.0  # of all attempts, repeated steps included


def of_job(job: Job) -> MeasuredRun | None:
    """None until an engine has fixed what the job runs with."""
    found = (job.plan or {}).get(_RUN)
    return None if found is None else MeasuredRun.model_validate(found)


def plan_of(job: Job) -> dict[str, Any] | None:
    """What preparation made, alone."""
    return None if job.plan is None else {name: value for name, value in job.plan.items() if name != _RUN}


def begun(session: Session, job: Job, started: Started, before: MeasuredRun | None) -> MeasuredRun:
    """The run that an engine says it begins, or goes on with. `before`: as it was until then.

    The time stays what was said first, as long as the device is of one kind.
    """
    is_same = before is not None and before.device_name == started.device_name
    return MeasuredRun(
        device=started.device,
        device_name=started.device_name,
        planned_memory_bytes=started.memory_bytes,
        planned_s=before.planned_s if before and is_same else _planned_s(session, job, started.device_name),
        trained_s=before.trained_s if before else 0.0,
    )


def _planned_s(session: Session, job: Job, device_name: str) -> float | None:
    base = session.get(BaseModelRow, job.base_model)
    if base is None or base.shape is None:
        return None
    shape = shape_of(base.shape, base.parameters)
    planned = time_plan.of_job(job, shape, time_plan.Rates(session), device_name)
    return None if planned is None else round(planned, 1)


def beside_plan(job: Job, run: MeasuredRun) -> dict[str, Any]:
    """The job's plan with the run in it, as its row keeps both."""
    return {**(plan_of(job) or {}), _RUN: run.model_dump(mode="json")}
