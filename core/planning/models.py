"""What plans are made from: the token lengths of files, and how fast workers have trained."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from core.db import db_now
from core.models import Base


class TokenCount(Base):
    """A file's lengths in tokens of one base, and the claim of whoever counts them. status: wanted, counted, error."""

    __tablename__ = "token_counts"
    file_id: Mapped[str] = mapped_column(ForeignKey("files.id"), primary_key=True)
    base_model: Mapped[str] = mapped_column(primary_key=True)
    method: Mapped[str] = mapped_column(String(16), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    revision: Mapped[str]  # of the base; empty until counted
    status: Mapped[str] = mapped_column(String(8), index=True)
    lengths: Mapped[dict[str, Any] | None]  # core.planning.token_lengths.Lengths
    error: Mapped[dict[str, Any] | None]  # code, message, param
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    lease_until: Mapped[float | None]
    holder: Mapped[str | None]
    created_at: Mapped[float] = mapped_column(default=db_now())


class Throughput(Base):
    """Tokens a second that the last job on such a worker came to, without validation and publishing."""

    __tablename__ = "throughputs"
    device_name: Mapped[str] = mapped_column(primary_key=True)
    base_model: Mapped[str] = mapped_column(primary_key=True)
    quantization: Mapped[str] = mapped_column(String(16), primary_key=True)
    training: Mapped[str] = mapped_column(String(16), primary_key=True)
    tokens_per_s: Mapped[float]
    measured_at: Mapped[float] = mapped_column(default=db_now())
