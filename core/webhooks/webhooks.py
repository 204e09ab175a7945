"""The receivers of a project, their secrets, and the log of what was delivered to them."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, func, select, tuple_, update
from sqlalchemy.orm import Session

from core import ids
from core.db import db_now
from core.errors import AttuneError, NotFound
from core.webhooks import signatures
from core.webhooks.models import WebhookDelivery, WebhookEndpoint, WebhookEvent

MAX_ENDPOINTS = 20  # of a project
BOTH_S = 24 * 3600.0  # that the old secret may sign beside the new one


def create(session: Session, project_id: str, *, name: str, url: str, event_types: Sequence[str]) -> WebhookEndpoint:
    """A new endpoint with a secret of its own. `url` has been through `core.webhooks.receivers.parse`."""
    count = session.scalar(select(func.count()).where(WebhookEndpoint.project_id == project_id)) or 0
    if count >= MAX_ENDPOINTS:
        message = f"A project has at most {MAX_ENDPOINTS} webhook endpoints; delete one of them first."
        raise AttuneError(message, code="too_many_webhook_endpoints")
    row = WebhookEndpoint(
        id=ids.webhook_endpoint_id(),
        project_id=project_id,
        name=name,
        url=url,
        event_types=_in_order(event_types),
        secret=signatures.new_secret(),
    )
    session.add(row)
    session.flush()
    session.refresh(row)
    return row


def _in_order(event_types: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(event_types))


def get(session: Session, project_id: str, endpoint_id: str, *, lock: bool = False) -> WebhookEndpoint:
    """The project's endpoint. `lock`: nobody else writes it in this transaction."""
    query = select(WebhookEndpoint).where(WebhookEndpoint.id == endpoint_id, WebhookEndpoint.project_id == project_id)
    row = session.scalar(query.with_for_update() if lock else query)
    if row is None:
        raise NotFound(
            f"No such webhook endpoint: {endpoint_id}",
            code="webhook_endpoint_not_found",
            param="webhook_endpoint_id",
        )
    return row


def page(session: Session, project_id: str, *, after: str | None, limit: int) -> tuple[Sequence[WebhookEndpoint], bool]:
    """(up to `limit` endpoints, newest first, after the endpoint `after`; whether there are more)."""
    query = select(WebhookEndpoint).where(WebhookEndpoint.project_id == project_id)
    if after is not None:
        cursor = session.scalar(query.where(WebhookEndpoint.id == after))
        if cursor is None:
            message = f"No such webhook endpoint with id {after}"
            raise AttuneError(message, param="after", code="invalid_cursor")
        here = tuple_(WebhookEndpoint.created_at, WebhookEndpoint.id)
        query = query.where(here < tuple_(cursor.created_at, cursor.id))
    newest_first = query.order_by(WebhookEndpoint.created_at.desc(), WebhookEndpoint.id.desc())
    rows = session.scalars(newest_first.limit(limit + 1)).all()
    return rows[:limit], len(rows) > limit


def change(
    session: Session,
    project_id: str,
    endpoint_id: str,
    *,
    name: str | None = None,
    url: str | None = None,
    event_types: Sequence[str] | None = None,
    enabled: bool | None = None,
) -> WebhookEndpoint:
    """Change what is given; None leaves it as it is."""
    row = get(session, project_id, endpoint_id, lock=True)
    before = (row.name, row.url, row.event_types, row.disabled_at)
    now = session.scalar(select(db_now()))
    row.name = row.name if name is None else name
    row.url = row.url if url is None else url
    row.event_types = row.event_types if event_types is None else _in_order(event_types)
    if enabled is True:
        row.disabled_at, row.disabled_reason, row.failures = None, None, 0
    elif enabled is False and row.disabled_at is None:
        row.disabled_at, row.disabled_reason = now, "disabled by its owner"
        give_up_pending(session, row.id)
    if (row.name, row.url, row.event_types, row.disabled_at) != before and now is not None:
        row.updated_at = now
    return row


def give_up_pending(session: Session, endpoint_id: str) -> None:
    """End the deliveries of an endpoint that was disabled; each can be asked for again."""
    pending = (WebhookDelivery.endpoint_id == endpoint_id, WebhookDelivery.next_at.is_not(None))
    session.execute(
        update(WebhookDelivery).where(*pending).values(next_at=None).execution_options(synchronize_session=False)
    )


def remove(session: Session, project_id: str, endpoint_id: str) -> None:
    """Delete the endpoint with its log."""
    row = get(session, project_id, endpoint_id, lock=True)
    session.execute(delete(WebhookDelivery).where(WebhookDelivery.endpoint_id == row.id))
    session.delete(row)


def rotate(session: Session, project_id: str, endpoint_id: str, *, keep_old: bool) -> WebhookEndpoint:
    """Give the endpoint a new secret. `keep_old`: for a day both sign, so that a receiver may change at leisure."""
    row = get(session, project_id, endpoint_id, lock=True)
    now = session.scalar(select(db_now()))
    assert now is not None
    row.old_secret, row.old_secret_until = (row.secret, now + BOTH_S) if keep_old else (None, None)
    row.secret = signatures.new_secret()
    row.updated_at = now
    return row


def signing_keys(session: Session, endpoint: WebhookEndpoint) -> list[str]:
    """The secrets that sign now, the newest first."""
    now = session.scalar(select(db_now()))
    assert now is not None
    if endpoint.old_secret is None or (endpoint.old_secret_until or 0.0) <= now:
        return [endpoint.secret]
    return [endpoint.secret, endpoint.old_secret]


Entry = tuple[WebhookDelivery, WebhookEvent]


def deliveries_page(
    session: Session, endpoint: WebhookEndpoint, *, after: str | None, limit: int
) -> tuple[list[Entry], bool]:
    """(up to `limit` deliveries with their events, newest first; whether there are more)."""
    query = (
        select(WebhookDelivery, WebhookEvent)
        .join(WebhookEvent, WebhookEvent.id == WebhookDelivery.event_id)
        .where(WebhookDelivery.endpoint_id == endpoint.id)
    )
    if after is not None:
        mine = (WebhookDelivery.id == after, WebhookDelivery.endpoint_id == endpoint.id)
        cursor = session.scalar(select(WebhookDelivery).where(*mine))
        if cursor is None:
            message = f"No such delivery with id {after} of the endpoint {endpoint.id}"
            raise AttuneError(message, param="after", code="invalid_cursor")
        here = tuple_(WebhookDelivery.created_at, WebhookDelivery.id)
        query = query.where(here < tuple_(cursor.created_at, cursor.id))
    newest_first = query.order_by(WebhookDelivery.created_at.desc(), WebhookDelivery.id.desc())
    rows = [(row[0], row[1]) for row in session.execute(newest_first.limit(limit + 1))]
    return rows[:limit], len(rows) > limit


def redeliver(session: Session, project_id: str, endpoint_id: str, delivery_id: str) -> Entry:
    """Send a delivery again now, with the id it had, and from the start of the schedule."""
    endpoint = get(session, project_id, endpoint_id)
    if endpoint.disabled_at is not None:
        raise AttuneError(
            f"The webhook endpoint {endpoint_id} is disabled ({endpoint.disabled_reason}); "
            "enable it first: attune.enabled = true.",
            code="webhook_endpoint_disabled",
            param="webhook_endpoint_id",
        )
    row = session.scalar(
        select(WebhookDelivery)
        .where(WebhookDelivery.id == delivery_id, WebhookDelivery.endpoint_id == endpoint.id)
        .with_for_update()
    )
    if row is None:
        raise NotFound(
            f"No such delivery: {delivery_id}", code="webhook_delivery_not_found", param="webhook_delivery_id"
        )
    row.tries, row.delivered_at, row.next_at = 0, None, session.scalar(select(db_now()))
    session.flush()
    return row, session.get_one(WebhookEvent, row.event_id)
