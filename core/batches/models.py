"""The tables of batches: a batch is a file of requests to a model, answered by workers under claims as jobs are.

`answered` counts the lines whose answers are named by parts; nothing after it has happened yet, whatever ran.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import ForeignKey, Index, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from core.db import db_now
from core.models import Base


class BatchStatus(StrEnum):
    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


ENDED = (BatchStatus.COMPLETED, BatchStatus.FAILED, BatchStatus.EXPIRED, BatchStatus.CANCELLED)


class Batch(Base):
    """Its row is the queue; `attempt` and `lease_until` are the claim."""

    __tablename__ = "batches"
    __table_args__ = (Index(None, "project_id", "created_at", "id"), Index(None, "status", "not_before"))
    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    status: Mapped[str] = mapped_column(String(16))
    endpoint: Mapped[str]
    input_file_id: Mapped[str]
    completion_window: Mapped[str]
    user_metadata: Mapped[dict[str, Any] | None]
    output_lifetime_s: Mapped[int | None] = mapped_column(Integer)
    created_at: Mapped[float] = mapped_column(default=db_now())
    in_progress_at: Mapped[float | None]
    finalizing_at: Mapped[float | None]
    completed_at: Mapped[float | None]
    failed_at: Mapped[float | None]
    expires_at: Mapped[float]
    expired_at: Mapped[float | None]
    cancelling_at: Mapped[float | None]
    cancelled_at: Mapped[float | None]

    # the claim
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    lease_until: Mapped[float | None]
    worker_id: Mapped[str | None]
    not_before: Mapped[float] = mapped_column(default=db_now())  # also whose turn it is: the longest waiting goes first
    losses: Mapped[int] = mapped_column(Integer, default=0)  # claims lost in a row at `loss_line`
    loss_line: Mapped[int] = mapped_column(Integer, default=-1)

    # what validation found
    model: Mapped[str | None]  # of all lines, where they agree
    total: Mapped[int] = mapped_column(Integer, default=0)
    errors: Mapped[list[Any] | None]  # [{code, line, message, param}] of an input file that was refused

    # progress and outcome
    answered: Mapped[int] = mapped_column(Integer, default=0)  # lines 1 … answered are in parts
    completed: Mapped[int] = mapped_column(Integer, default=0)
    failed: Mapped[int] = mapped_column(Integer, default=0)
    input_tokens: Mapped[int] = mapped_column(default=0)
    output_tokens: Mapped[int] = mapped_column(default=0)
    output_file_id: Mapped[str | None]
    error_file_id: Mapped[str | None]
    swept_at: Mapped[float | None]  # when its parts were removed from storage


class BatchPart(Base):
    """The answers to some lines in a row, stored by one attempt."""

    __tablename__ = "batch_parts"
    batch_id: Mapped[str] = mapped_column(ForeignKey("batches.id"), primary_key=True)
    first_line: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    output_key: Mapped[str | None]
    error_key: Mapped[str | None]
