"""The table of the doctor's long work: conversions, reports, repairs and splits."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import ForeignKey, Index, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from core.db import db_now
from core.models import Base


class TaskKind(StrEnum):
    CONVERSION = "conversion"
    REPORT = "report"
    REPAIR = "repair"
    SPLIT = "split"


class TaskStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


ENDED = (TaskStatus.SUCCEEDED, TaskStatus.FAILED)


class DoctorTask(Base):
    """The row is the queue, as a job's is: `attempt` and `lease_until` are the claim."""

    __tablename__ = "doctor_tasks"
    __table_args__ = (
        Index(None, "project_id", "kind", "created_at", "id"),
        Index(None, "status", "created_at"),
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    kind: Mapped[str] = mapped_column(String(16))
    status: Mapped[str] = mapped_column(String(16))
    file_id: Mapped[str]
    request: Mapped[dict[str, Any]]
    stage: Mapped[str] = mapped_column(String(16))
    share: Mapped[float] = mapped_column(default=0.0)  # of the work, from 0 to 1
    result: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]
    created_at: Mapped[float] = mapped_column(default=db_now())
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    lease_until: Mapped[float | None]
    holder: Mapped[str | None]
