"""What an attempt needs from the rows and what it leaves in them: task, lineage, snapshots, the metrics file.

Reads and rows only; the bytes are the worker's business.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.jobs import jobs
from core.models import BaseModelRow, File, Job, JobEvent, Model, Project, Snapshot

METRIC_COLUMNS = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")
_METRIC_KEYS = ("step", "train_loss", "train_mean_token_accuracy", "valid_loss", "valid_mean_token_accuracy")


@dataclass(frozen=True)
class Inputs:
    """Rows that an attempt works from."""

    base: BaseModelRow
    training: File
    validation: File | None
    start_model: Model | None
    snapshots: list[Snapshot]  # newest first
    organization: str  # the project's slug, for model ids


def inputs_of(session: Session, job: Job) -> Inputs:
    """Everything an attempt of `job` reads. Raises NotFound when a file was deleted."""
    base = session.get_one(BaseModelRow, job.base_model)
    training, validation = jobs.files_of(session, job)
    start_id = job.spec.get("start_model")
    snapshots = session.scalars(
        select(Snapshot).where(Snapshot.job_id == job.id).order_by(Snapshot.step.desc(), Snapshot.attempt.desc())
    ).all()
    return Inputs(
        base=base,
        training=training,
        validation=validation,
        start_model=session.get_one(Model, start_id) if start_id else None,
        snapshots=list(snapshots),
        organization=session.get_one(Project, job.project_id).slug,
    )


def metrics_of(session: Session, job_id: str) -> list[tuple[float, dict[str, Any]]]:
    """(when it was recorded, what the metrics event holds) of each step, in order."""
    rows = session.execute(
        select(JobEvent.created_at, JobEvent.data)
        .where(JobEvent.job_id == job_id, JobEvent.type == "metrics")
        .order_by(JobEvent.seq)
    )
    found: list[tuple[float, dict[str, Any]]] = []
    for at, data in rows:
        assert data is not None, "a metrics event has its metrics"
        found.append((at, data))
    return found


def metrics_csv(session: Session, job_id: str) -> bytes:
    """OpenAI's result file: one line a step, empty cells where there was no validation."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(METRIC_COLUMNS)
    for _, data in metrics_of(session, job_id):
        writer.writerow(["" if data.get(key) is None else data[key] for key in _METRIC_KEYS])
    return text.getvalue().encode()
