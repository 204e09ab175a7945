"""The tables of webhooks: what moved, who wants to hear of it, and each telling of one to the other."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey, Index, Integer, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from core.db import db_now
from core.models import Base


class WebhookEvent(Base):
    """The outbox: what moved, written in the transaction that moved it. `spread_at`: its deliveries were made."""

    __tablename__ = "webhook_events"
    __table_args__ = (Index(None, "spread_at", "created_at"),)
    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    type: Mapped[str]
    object_id: Mapped[str]  # of the job or batch
    status: Mapped[str] = mapped_column(String(32))
    seq: Mapped[int] = mapped_column(Integer)  # the job's last event number at that moment
    data: Mapped[dict[str, Any] | None]  # what `attune` says beside seq, status and project
    created_at: Mapped[float] = mapped_column(default=db_now())
    spread_at: Mapped[float | None]


class WebhookEndpoint(Base):
    """A receiver. `claim` and `claimed_until`: one web process at a time delivers to it."""

    __tablename__ = "webhook_endpoints"
    __table_args__ = (Index(None, "project_id", "created_at", "id"),)
    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str]
    url: Mapped[str]
    event_types: Mapped[list[Any]]
    secret: Mapped[str]  # as it is: signing needs it
    old_secret: Mapped[str | None]
    old_secret_until: Mapped[float | None]
    created_at: Mapped[float] = mapped_column(default=db_now())
    updated_at: Mapped[float] = mapped_column(default=db_now())
    disabled_at: Mapped[float | None]
    disabled_reason: Mapped[str | None]
    failures: Mapped[int] = mapped_column(Integer, default=0)  # in a row
    claim: Mapped[int] = mapped_column(Integer, default=0)
    claimed_until: Mapped[float] = mapped_column(default=0.0)  # after a failure: until when it rests


class WebhookDelivery(Base):
    """One event for one endpoint. `next_at` null: it is delivered, or given up."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        UniqueConstraint("endpoint_id", "event_id"),
        Index(None, "endpoint_id", "created_at", "id"),
        Index(None, "next_at"),
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    endpoint_id: Mapped[str] = mapped_column(ForeignKey("webhook_endpoints.id"))
    event_id: Mapped[str] = mapped_column(ForeignKey("webhook_events.id"), index=True)
    created_at: Mapped[float] = mapped_column(default=db_now())
    tries: Mapped[int] = mapped_column(Integer, default=0)  # since it was made or asked for again
    next_at: Mapped[float | None]
    delivered_at: Mapped[float | None]
    attempts: Mapped[list[Any]] = mapped_column(default=list)  # [{at, status_code, error, seconds}], the newest
