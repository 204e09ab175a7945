"""The tables of uploads: files that come in parts."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import ForeignKey, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from core.db import db_now
from core.models import Base


class UploadStatus(StrEnum):
    PENDING = "pending"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class Upload(Base):
    """A file that comes in parts. Only a pending one takes them; the other states are final."""

    __tablename__ = "uploads"
    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    status: Mapped[str] = mapped_column(String(16), index=True)
    filename: Mapped[str]
    purpose: Mapped[str]
    mime_type: Mapped[str]
    bytes: Mapped[int]  # as declared; the parts have to come to that
    file_lifetime_s: Mapped[int | None] = mapped_column(Integer)
    file_id: Mapped[str | None]  # what it was completed to
    created_at: Mapped[float] = mapped_column(default=db_now())
    expires_at: Mapped[float]
    composing_until: Mapped[float | None]  # a completion that began in time is let end
    swept_at: Mapped[float | None]  # when its parts were removed from storage


class UploadPart(Base):
    __tablename__ = "upload_parts"
    id: Mapped[str] = mapped_column(primary_key=True)
    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id"), index=True)
    bytes: Mapped[int]
    sha256: Mapped[str]
    created_at: Mapped[float] = mapped_column(default=db_now())
