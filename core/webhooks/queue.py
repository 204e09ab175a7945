"""From the outbox to the receivers: which delivery is due, who makes it, what its outcome means.

Several web processes may do this at once. An endpoint is claimed as a job is, by one of them and for a time, so it
gets one delivery at a time; a process that dies has its claim end, and the delivery is made again (at least once).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, delete, exists, func, select, update
from sqlalchemy.orm import Session

from core import ids
from core.db import db_now
from core.webhooks import webhooks
from core.webhooks.models import WebhookDelivery, WebhookEndpoint, WebhookEvent

# Seconds to wait before each try; Standard Webhooks' own schedule, 75 hours in all.
SCHEDULE_S = (0.0, 5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 50400.0, 72000.0, 86400.0)
LEASE_S = 15.0  # renewed while its process lives, so a try may take longer
REST_S = 5.0  # of an endpoint after a failure, times the failures in a row …
MAX_REST_S = 30.0  # … and at most this
KEEP_S = 30 * 24 * 3600.0  # the log
LOGGED = 20  # tries of a delivery
SPREAD_ROWS = 200  # events in one transaction
GONE = 410


@dataclass(frozen=True)
class Outcome:
    """One try. `status_code` None: no answer, and `error` says why."""

    at: float  # seconds since the epoch
    seconds: float
    status_code: int | None
    error: str | None

    @property
    def is_delivered(self) -> bool:
        return self.status_code is not None and 200 <= self.status_code < 300


@dataclass(frozen=True)
class EndpointClaim:
    endpoint: WebhookEndpoint
    claim: int


@dataclass(frozen=True)
class Due:
    """A delivery to make now. `keys`: the secrets that sign it."""

    delivery: WebhookDelivery
    event: WebhookEvent
    url: str
    keys: Sequence[str]


def has_work(session: Session) -> bool:
    """A cheap look, so that an idle service writes nothing."""
    due = exists().where(WebhookDelivery.next_at <= db_now())
    unspread = exists().where(WebhookEvent.spread_at.is_(None))
    return bool(session.scalar(select(due | unspread)))


def spread(session: Session) -> int:
    """Make the deliveries of new events; returns how many. An event that nobody asked for is removed."""
    events = session.scalars(
        select(WebhookEvent)
        .where(WebhookEvent.spread_at.is_(None))
        .order_by(WebhookEvent.created_at)
        .limit(SPREAD_ROWS)
        .with_for_update(skip_locked=True)
    ).all()
    projects = {event.project_id for event in events}
    endpoints = session.scalars(
        select(WebhookEndpoint).where(WebhookEndpoint.project_id.in_(projects), WebhookEndpoint.disabled_at.is_(None))
    ).all()
    now = session.scalar(select(db_now()))
    made = 0
    for event in events:
        askers = [row for row in endpoints if _wants(row, event)]
        for endpoint in askers:
            session.add(
                WebhookDelivery(
                    id=ids.webhook_delivery_id(),
                    project_id=event.project_id,
                    endpoint_id=endpoint.id,
                    event_id=event.id,
                    next_at=now,
                )
            )
        made += len(askers)
        if askers:
            event.spread_at = now
        else:
            session.delete(event)
    return made


def _wants(endpoint: WebhookEndpoint, event: WebhookEvent) -> bool:
    return (
        endpoint.project_id == event.project_id
        and event.type in endpoint.event_types
        and endpoint.created_at <= event.created_at
    )


def claim(session: Session, limit: int, failing_limit: int) -> list[EndpointClaim]:
    """Up to `limit` endpoints that have something due, the healthy first; of failing ones up to `failing_limit`."""
    first_due = (
        select(func.min(WebhookDelivery.next_at))
        .where(WebhookDelivery.endpoint_id == WebhookEndpoint.id, WebhookDelivery.next_at <= db_now())
        .scalar_subquery()
    )
    free = select(WebhookEndpoint.id, WebhookEndpoint.failures).where(
        WebhookEndpoint.disabled_at.is_(None), WebhookEndpoint.claimed_until <= db_now(), first_due.is_not(None)
    )
    found = [
        *session.execute(
            free.where(WebhookEndpoint.failures == 0).order_by(first_due).limit(limit).with_for_update(skip_locked=True)
        ),
        *session.execute(
            free.where(WebhookEndpoint.failures > 0)
            .order_by(first_due)
            .limit(max(failing_limit, 0))
            .with_for_update(skip_locked=True)
        ),
    ][:limit]
    rows = session.scalars(
        update(WebhookEndpoint)
        .where(WebhookEndpoint.id.in_([row[0] for row in found]))
        .values(claim=WebhookEndpoint.claim + 1, claimed_until=db_now() + LEASE_S)
        .returning(WebhookEndpoint)
        .execution_options(synchronize_session=False, populate_existing=True)
    ).all()
    return [EndpointClaim(row, row.claim) for row in rows]


def next_due(session: Session, mine: EndpointClaim, limit: int) -> list[Due]:
    """The endpoint's deliveries that have waited longest, and a full lease for making them; none: nothing is due."""
    endpoint = session.scalars(
        update(WebhookEndpoint)
        .where(*_still(mine), WebhookEndpoint.disabled_at.is_(None))
        .values(claimed_until=db_now() + LEASE_S)
        .returning(WebhookEndpoint)
        .execution_options(synchronize_session=False, populate_existing=True)
    ).one_or_none()
    if endpoint is None:
        return []
    rows = session.execute(
        select(WebhookDelivery, WebhookEvent)
        .join(WebhookEvent, WebhookEvent.id == WebhookDelivery.event_id)
        .where(WebhookDelivery.endpoint_id == endpoint.id, WebhookDelivery.next_at <= db_now())
        .order_by(WebhookDelivery.next_at, WebhookEvent.created_at, WebhookDelivery.id)
        .limit(limit)
    ).all()
    keys = webhooks.signing_keys(session, endpoint) if rows else ()
    return [Due(row[0], row[1], endpoint.url, keys) for row in rows]


def settle(session: Session, mine: EndpointClaim, tried: Sequence[tuple[Due, Outcome]]) -> bool:
    """Write what came of tries, of which the last alone may have failed. True: the endpoint may have its next
    deliveries at once."""
    endpoint = session.scalar(select(WebhookEndpoint).where(*_still(mine)).with_for_update())
    if endpoint is None:
        return False  # deleted, disabled, or claimed by another meanwhile
    wanted = [due.delivery.id for due, _ in tried]
    locked = select(WebhookDelivery).where(WebhookDelivery.id.in_(wanted)).order_by(WebhookDelivery.id)
    rows = {row.id: row for row in session.scalars(locked.with_for_update())}
    now = session.scalar(select(db_now()))
    assert now is not None
    # one that was asked for again meanwhile is due anew, whatever came of this try
    settled = [
        _settle(endpoint, row, outcome, now)
        for due, outcome in tried
        if (row := rows.get(due.delivery.id)) is not None and row.next_at == due.delivery.next_at
    ]
    if endpoint.disabled_at is not None:
        session.flush()
        webhooks.give_up_pending(session, endpoint.id)
    return len(settled) == len(tried) and all(settled)


def _settle(endpoint: WebhookEndpoint, row: WebhookDelivery, outcome: Outcome, now: float) -> bool:
    entry = {
        "at": outcome.at,
        "seconds": round(outcome.seconds, 3),
        "status_code": outcome.status_code,
        "error": outcome.error,
    }
    row.attempts = [*row.attempts, entry][-LOGGED:]
    row.tries += 1
    if outcome.is_delivered:
        row.next_at, row.delivered_at = None, now
        endpoint.failures = 0
        return True
    row.next_at = now + SCHEDULE_S[row.tries] if row.tries < len(SCHEDULE_S) else None
    endpoint.failures += 1
    endpoint.claim += 1  # the claim ends here, and a rest begins
    endpoint.claimed_until = now + min(REST_S * endpoint.failures, MAX_REST_S)
    if outcome.status_code == GONE:
        endpoint.disabled_at, endpoint.disabled_reason = now, "it answered 410 Gone"
    return False


def renew(session: Session, mine: Sequence[EndpointClaim]) -> None:
    """The beat of a process that delivers: its endpoints stay its own while receivers take their time."""
    for claim in sorted(mine, key=lambda one: one.endpoint.id):  # in one order, as two processes may be at it
        session.execute(
            update(WebhookEndpoint)
            .where(*_still(claim))
            .values(claimed_until=db_now() + LEASE_S)
            .execution_options(synchronize_session=False)
        )


def release(session: Session, mine: EndpointClaim) -> None:
    """Let others have the endpoint."""
    session.execute(
        update(WebhookEndpoint)
        .where(*_still(mine))
        .values(claim=WebhookEndpoint.claim + 1, claimed_until=0.0)  # or a renewal on its way would take it back
        .execution_options(synchronize_session=False)
    )


def _still(mine: EndpointClaim) -> tuple[ColumnElement[bool], ...]:
    return (WebhookEndpoint.id == mine.endpoint.id, WebhookEndpoint.claim == mine.claim)


def forget_old(session: Session) -> int:
    """Remove the log of long ago; returns how many deliveries."""
    old = db_now() - KEEP_S
    done = session.scalars(
        delete(WebhookDelivery)
        .where(WebhookDelivery.created_at < old, WebhookDelivery.next_at.is_(None))
        .returning(WebhookDelivery.id)
        .execution_options(synchronize_session=False)
    ).all()
    kept = exists().where(WebhookDelivery.event_id == WebhookEvent.id)
    session.execute(
        delete(WebhookEvent)
        .where(WebhookEvent.created_at < old, WebhookEvent.spread_at.is_not(None), ~kept)
        .execution_options(synchronize_session=False)
    )
    return len(done)
