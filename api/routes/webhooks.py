"""/v1/webhook_endpoints as OpenAI's clients know it, and the same below /v1/attune with the log of deliveries.

What OpenAI has not stands in `attune`: whether an endpoint is disabled, and why.
"""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from api.parts import Caller, Within
from api.shapes.job_object import seconds
from api.shapes.wire import Ours, Page, Shown, ends
from core.errors import AttuneError
from core.storable import Name
from core.webhooks import outbox, receivers, signatures, webhooks
from core.webhooks.models import WebhookDelivery, WebhookEndpoint, WebhookEvent

router = APIRouter()
_endpoints = APIRouter(tags=["webhooks"])
_deliveries = APIRouter(prefix="/v1/attune", tags=["webhooks"])

After = Annotated[str | None, Query(max_length=128)]
Url = Annotated[str, Field(min_length=1, max_length=receivers.MAX_URL)]
EventTypes = Annotated[list[Annotated[str, Field(max_length=64)]], Field(min_length=1, max_length=64)]


class _Sent(BaseModel):
    """A request of OpenAI's: what it may hold beyond what we know is no affair of ours."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class EndpointCreate(_Sent):
    name: Name
    url: Url
    event_types: EventTypes


class EndpointSwitch(Ours):
    enabled: bool | None = None


class EndpointUpdate(_Sent):
    name: Name | None = None
    url: Url | None = None
    event_types: EventTypes | None = None
    attune: EndpointSwitch | None = None


class SecretRotate(_Sent):
    keep_old_secret_active_for_24_hours: bool = False


class TestSend(_Sent):
    event_type: Annotated[str, Field(max_length=64)]


class EndpointAttune(Shown):
    enabled: bool
    disabled_at: int | None
    disabled_reason: str | None
    failures: int  # in a row
    old_secret_until: int | None  # both secrets sign until then


class EndpointObject(Shown):
    id: str
    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    created_at: int
    updated_at: int
    name: str
    url: str
    event_types: list[str]
    signing_secret_hint: str
    attune: EndpointAttune


class EndpointWithSecret(EndpointObject):
    signing_secret: str  # in the answers to create and rotate_secret alone


class EndpointList(Page[EndpointObject]):
    pass


class EndpointDeleted(Shown):
    id: str
    object: Literal["webhook_endpoint.deleted"] = "webhook_endpoint.deleted"
    deleted: bool = True


class TestResult(Shown):
    object: Literal["webhook_endpoint.test"] = "webhook_endpoint.test"
    webhook_endpoint_id: str
    event_type: str
    status_code: int
    success: Literal[True] = True  # an answer came; what it said is `status_code`


class EventTypeList(Shown):
    object: Literal["list"] = "list"
    data: list[str]


class DeliveryAttempt(Shown):
    at: int
    seconds: float
    status_code: int | None
    error: str | None


class DeliveryObject(Shown):
    id: str
    object: Literal["attune.webhook_delivery"] = "attune.webhook_delivery"
    webhook_endpoint_id: str
    status: Literal["pending", "delivered", "failed"]
    created_at: int
    next_attempt_at: int | None
    delivered_at: int | None
    attempts: list[DeliveryAttempt]  # oldest first, the newest 20
    event: dict[str, Any]  # as it is sent; its id is the webhook-id


class DeliveryList(Page[DeliveryObject]):
    pass


def _shared(row: WebhookEndpoint) -> dict[str, Any]:
    both = row.old_secret_until is not None and row.old_secret_until > time.time()
    return {
        "id": row.id,
        "created_at": int(row.created_at),
        "updated_at": int(row.updated_at),
        "name": row.name,
        "url": row.url,
        "event_types": row.event_types,
        "signing_secret_hint": signatures.hint(row.secret),
        "attune": EndpointAttune(
            enabled=row.disabled_at is None,
            disabled_at=seconds(row.disabled_at),
            disabled_reason=row.disabled_reason,
            failures=row.failures,
            old_secret_until=seconds(row.old_secret_until) if both else None,
        ),
    }


def _show(row: WebhookEndpoint) -> EndpointObject:
    return EndpointObject(**_shared(row))


def _show_secret(row: WebhookEndpoint) -> EndpointWithSecret:
    return EndpointWithSecret(**_shared(row), signing_secret=row.secret)


def _show_delivery(row: WebhookDelivery, event: WebhookEvent) -> DeliveryObject:
    done = "delivered" if row.delivered_at is not None else "failed"
    return DeliveryObject(
        id=row.id,
        webhook_endpoint_id=row.endpoint_id,
        status="pending" if row.next_at is not None else done,
        created_at=int(row.created_at),
        next_attempt_at=seconds(row.next_at),
        delivered_at=seconds(row.delivered_at),
        attempts=[DeliveryAttempt.model_validate({**attempt, "at": int(attempt["at"])}) for attempt in row.attempts],
        event=outbox.content_of(event),
    )


def _known(event_types: list[str], param: str) -> list[str]:
    for kind in event_types:
        if kind not in outbox.EVENT_TYPES:
            offered = ", ".join(outbox.EVENT_TYPES)
            message = f"Events of type {kind!r} are not sent here; choose of {offered}."
            raise AttuneError(message, code="unsupported_event_type", param=param)
    return event_types


@_endpoints.post("/webhook_endpoints")
def create_endpoint(body: EndpointCreate, caller: Caller, parts: Within) -> EndpointWithSecret:
    """The answer holds the signing secret; nothing shows it again."""
    receivers.parse(body.url, parts.sender.allowed)
    event_types = _known(body.event_types, "event_types")
    with parts.database.begin() as session:
        row = webhooks.create(session, caller.project_id, name=body.name, url=body.url, event_types=event_types)
    return _show_secret(row)


@_endpoints.get("/webhook_endpoints")
def list_endpoints(
    caller: Caller, parts: Within, after: After = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> EndpointList:
    with parts.database.read() as session:
        rows, has_more = webhooks.page(session, caller.project_id, after=after, limit=limit)
    data = [_show(row) for row in rows]
    return EndpointList(data=data, **ends(data), has_more=has_more)


@_endpoints.get("/webhook_event_types")
def list_event_types(_: Caller) -> EventTypeList:
    return EventTypeList(data=list(outbox.EVENT_TYPES))


@_endpoints.get("/webhook_endpoints/{webhook_endpoint_id}")
def retrieve_endpoint(webhook_endpoint_id: str, caller: Caller, parts: Within) -> EndpointObject:
    with parts.database.read() as session:
        return _show(webhooks.get(session, caller.project_id, webhook_endpoint_id))


@_endpoints.post("/webhook_endpoints/{webhook_endpoint_id}")
def update_endpoint(webhook_endpoint_id: str, body: EndpointUpdate, caller: Caller, parts: Within) -> EndpointObject:
    if body.url is not None:
        receivers.parse(body.url, parts.sender.allowed)
    with parts.database.begin() as session:
        row = webhooks.change(
            session,
            caller.project_id,
            webhook_endpoint_id,
            name=body.name,
            url=body.url,
            event_types=None if body.event_types is None else _known(body.event_types, "event_types"),
            enabled=body.attune.enabled if body.attune else None,
        )
    return _show(row)


@_endpoints.delete("/webhook_endpoints/{webhook_endpoint_id}")
def delete_endpoint(webhook_endpoint_id: str, caller: Caller, parts: Within) -> EndpointDeleted:
    with parts.database.begin() as session:
        webhooks.remove(session, caller.project_id, webhook_endpoint_id)
    return EndpointDeleted(id=webhook_endpoint_id)


@_endpoints.post("/webhook_endpoints/{webhook_endpoint_id}/rotate_secret")
def rotate_secret(
    webhook_endpoint_id: str, caller: Caller, parts: Within, body: SecretRotate | None = None
) -> EndpointWithSecret:
    """A new secret. With `keep_old_secret_active_for_24_hours` deliveries carry both signatures for a day."""
    keep_old = body is not None and body.keep_old_secret_active_for_24_hours
    with parts.database.begin() as session:
        row = webhooks.rotate(session, caller.project_id, webhook_endpoint_id, keep_old=keep_old)
    return _show_secret(row)


@_endpoints.post("/webhook_endpoints/{webhook_endpoint_id}/test")
def test_endpoint(webhook_endpoint_id: str, body: TestSend, caller: Caller, parts: Within) -> TestResult:
    """Send a sample now, once, and tell what the receiver answered. A 400 says why no answer came."""
    kind = _known([body.event_type], "event_type")[0]
    with parts.database.read() as session:
        row = webhooks.get(session, caller.project_id, webhook_endpoint_id)
        keys = webhooks.signing_keys(session, row)
    sample = outbox.sample(caller.project_id, kind)
    outcome = parts.sender.send_sample(row.url, keys, sample.id, outbox.body_of(sample))
    if outcome.status_code is None:
        message = f"The test could not be delivered. {outcome.error}"
        raise AttuneError(message, code="webhook_not_delivered", param="webhook_endpoint_id")
    return TestResult(webhook_endpoint_id=row.id, event_type=kind, status_code=outcome.status_code)


@_deliveries.get("/webhook_endpoints/{webhook_endpoint_id}/deliveries")
def list_deliveries(
    webhook_endpoint_id: str,
    caller: Caller,
    parts: Within,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> DeliveryList:
    """The log, newest first; kept for 30 days."""
    with parts.database.read() as session:
        endpoint = webhooks.get(session, caller.project_id, webhook_endpoint_id)
        rows, has_more = webhooks.deliveries_page(session, endpoint, after=after, limit=limit)
    data = [_show_delivery(*row) for row in rows]
    return DeliveryList(data=data, **ends(data), has_more=has_more)


@_deliveries.post("/webhook_endpoints/{webhook_endpoint_id}/deliveries/{webhook_delivery_id}/redeliver")
def redeliver(webhook_endpoint_id: str, webhook_delivery_id: str, caller: Caller, parts: Within) -> DeliveryObject:
    """Send it again with the same webhook-id, and from the start of the schedule."""
    with parts.database.begin() as session:
        found = webhooks.redeliver(session, caller.project_id, webhook_endpoint_id, webhook_delivery_id)
    parts.poke_webhooks()
    return _show_delivery(*found)


router.include_router(_endpoints, prefix="/v1")
router.include_router(_endpoints, prefix="/v1/attune")
router.include_router(_deliveries)
