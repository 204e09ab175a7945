"""The audit log: one row for every call that may change something, with who called and what was answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from sqlalchemy import Table, insert, select, tuple_
from sqlalchemy.orm import Session

from core import ids
from core.access.projects import Principal
from core.errors import AttuneError
from core.models import AuditEntry

_ENTRIES = cast(Table, AuditEntry.__table__)


@dataclass(frozen=True)
class Call:
    """What is kept of one call. `project_id`: the project it was about."""

    principal: Principal
    project_id: str
    method: str
    route: str
    object_id: str | None
    status: int
    request_id: str


def record(session: Session, calls: Sequence[Call]) -> None:
    """Add a row for each call."""
    rows = [
        {
            "id": ids.audit_id(),
            "project_id": call.project_id,
            "key_id": call.principal.key_id,
            "key_name": call.principal.key_name,
            "is_operator": call.principal.is_operator,
            "method": call.method,
            "route": call.route,
            "object_id": call.object_id,
            "status": call.status,
            "request_id": call.request_id,
        }
        for call in calls
    ]
    session.execute(insert(_ENTRIES), rows)


def page(
    session: Session, project_id: str | None, *, after: str | None, limit: int
) -> tuple[Sequence[AuditEntry], bool]:
    """(up to `limit` rows of one project or of all, newest first, after the row `after`; whether there are more)."""
    query = select(AuditEntry)
    if project_id is not None:
        query = query.where(AuditEntry.project_id == project_id)
    if after is not None:
        cursor = session.scalar(query.where(AuditEntry.id == after))
        if cursor is None:
            raise AttuneError(f"No such audit log entry with id: {after}", code="invalid_cursor", param="after")
        query = query.where(tuple_(AuditEntry.created_at, AuditEntry.id) < tuple_(cursor.created_at, cursor.id))
    rows = session.scalars(query.order_by(AuditEntry.created_at.desc(), AuditEntry.id.desc()).limit(limit + 1)).all()
    return rows[:limit], len(rows) > limit
