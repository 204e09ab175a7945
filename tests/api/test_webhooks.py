"""Webhook endpoints: set up by the official client, refused by their fields, invisible to others."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from openai import OpenAI

from api.beside.webhook_relay import Relay
from core import ids
from core.webhooks.models import WebhookEndpoint
from tests.api.hooks import ENDED, OPT_IN, add, cancelled_job, log_of, settled, unwrap
from tests.api.place import Place, Tenant
from tests.api.receiver import Receiver

OF_BATCHES: list[Any] = [f"batch.{status}" for status in ("completed", "failed", "expired", "cancelled")]

needs_endpoints = pytest.mark.skipif(
    not hasattr(OpenAI(api_key="x").webhooks, "create"), reason="this client cannot set endpoints up"
)


@needs_endpoints
def test_c25_endpoints_are_set_up_by_the_official_client(tenant: Tenant, inbox: Receiver) -> None:
    client = tenant.openai.webhooks
    made = client.create(name="first", url=inbox.url + "/a", event_types=ENDED)
    assert made.signing_secret.startswith("whsec_")
    assert made.signing_secret_hint is not None
    assert made.signing_secret_hint.endswith(made.signing_secret[-4:])
    other = client.create(name="second", url="https://example.com/hook", event_types=ENDED[:1])
    assert [row.id for row in client.list()] == [other.id, made.id]
    assert [row.id for row in client.list(limit=1)] == [other.id, made.id]  # page by page
    found = client.retrieve(made.id)
    assert (found.name, found.url, found.event_types) == ("first", inbox.url + "/a", ENDED)
    assert made.signing_secret not in tenant.http.get(f"/v1/webhook_endpoints/{made.id}").text
    changed = client.update(made.id, name="renamed", event_types=ENDED[1:])
    assert (changed.name, changed.url, changed.event_types) == ("renamed", inbox.url + "/a", ENDED[1:])
    assert changed.updated_at is not None
    assert set(ENDED + OPT_IN + OF_BATCHES) == set(client.event_types.list().data)
    tested = client.test(made.id, event_type=ENDED[0])
    assert (tested.status_code, tested.success, tested.webhook_endpoint_id) == (204, True, made.id)
    event = unwrap(inbox.at("/a")[0], made.signing_secret)
    assert (event.type, event.object, event.data.id) == (ENDED[0], "event", "ftjob-" + "0" * 24)
    for number, kind in enumerate(OF_BATCHES, 1):
        client.test(made.id, event_type=kind)
        event = unwrap(inbox.at("/a")[number], made.signing_secret)
        assert (event.type, event.data.id) == (kind, "batch_" + "0" * 24)
    gone = client.delete(other.id)
    assert (gone.deleted, gone.object) == (True, "webhook_endpoint.deleted")
    with pytest.raises(openai.NotFoundError):
        client.retrieve(other.id)
    strict = OpenAI(
        api_key=tenant.key, base_url=f"{tenant.place.url}/v1", max_retries=0, _strict_response_validation=True
    )
    assert strict.webhooks.rotate_secret(made.id).signing_secret != made.signing_secret
    assert strict.webhooks.list().data[0].id == strict.webhooks.retrieve(made.id).id


REFUSED = [
    ({"url": "http://169.254.169.254/latest/meta-data"}, "webhook_address_refused", "url"),
    ({"url": "http://[::1]/"}, "webhook_address_refused", "url"),
    ({"url": "http://2130706433/"}, "invalid_webhook_url", "url"),
    ({"url": "https://user:pass@example.com/"}, "invalid_webhook_url", "url"),
    ({"url": "file:///etc/passwd"}, "invalid_webhook_url", "url"),
    ({"url": "https://ⓔxample.com/"}, "invalid_webhook_url", "url"),
    ({"url": "x" * 3000}, "invalid_value", "url"),
    ({"url": 7}, "invalid_type", "url"),
    ({"url": None}, "invalid_type", "url"),
    ({"name": ""}, "invalid_value", "name"),
    ({"name": "a\x00"}, "invalid_value", "name"),
    ({"event_types": []}, "invalid_value", "event_types"),
    ({"event_types": ["response.completed"]}, "unsupported_event_type", "event_types"),
    ({"event_types": "x"}, "invalid_type", "event_types"),
]


def test_a_bad_endpoint_is_refused_by_its_field(tenant: Tenant) -> None:
    good = {"name": "x", "url": "https://example.com/", "event_types": ENDED}
    with tenant.http as http:
        for wrong, code, param in REFUSED:
            error = http.post("/v1/webhook_endpoints", json={**good, **wrong})
            assert error.status_code == 400
            shown = error.json()["error"]
            assert (shown["code"], shown["param"]) == (code, param), wrong
        missing = http.post("/v1/webhook_endpoints", json={"name": "x"}).json()["error"]
        assert missing["code"] == "missing_required_parameter"
        assert http.get("/v1/webhook_endpoints").json()["data"] == []
        made = http.post("/v1/webhook_endpoints", json=good).json()
        path = f"/v1/webhook_endpoints/{made['id']}"
        assert http.post(path, json={"url": "http://10.0.0.1/"}).status_code == 400
        assert http.post(path, json={"attune": {"disabled": True}}).json()["error"]["param"] == "attune.disabled"
        assert http.post(f"{path}/test", json={"event_type": "batch.completed"}).status_code == 400
        for _ in range(19):
            assert http.post("/v1/webhook_endpoints", json=good).status_code == 200
        full = http.post("/v1/webhook_endpoints", json=good)
        assert full.json()["error"]["code"] == "too_many_webhook_endpoints"


def test_a_test_that_is_not_answered_says_why(tenant: Tenant) -> None:
    endpoint = add(tenant, "http://127.0.0.1:9/")
    path = f"/v1/webhook_endpoints/{endpoint['id']}/test"
    answer = tenant.http.post(path, json={"event_type": ENDED[0]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "webhook_not_delivered")


def test_a_foreign_endpoint_answers_as_a_random_one(web: Place, tenant: Tenant, inbox: Receiver, relay: Relay) -> None:
    owner = web.tenant("owner")
    endpoint = add(owner, inbox.url + "/a")
    cancelled_job(owner)
    delivery = settled(owner, endpoint, 1)["id"]
    mine = add(tenant, inbox.url + "/b")
    unknown = {endpoint["id"]: ids.webhook_endpoint_id(), delivery: ids.webhook_delivery_id()}
    calls: list[tuple[str, str, Any]] = [
        *[(verb, f"/v1/webhook_endpoints/{endpoint['id']}", None) for verb in ("GET", "DELETE")],
        ("POST", f"/v1/webhook_endpoints/{endpoint['id']}", {"name": "x"}),
        ("POST", f"/v1/webhook_endpoints/{endpoint['id']}/rotate_secret", None),
        ("POST", f"/v1/webhook_endpoints/{endpoint['id']}/test", {"event_type": ENDED[0]}),
        ("GET", f"/v1/webhook_endpoints?after={endpoint['id']}", None),
        ("GET", f"/v1/attune/webhook_endpoints/{endpoint['id']}/deliveries", None),
        ("GET", f"/v1/attune/webhook_endpoints/{mine['id']}/deliveries?after={delivery}", None),
        ("POST", f"/v1/attune/webhook_endpoints/{endpoint['id']}/deliveries/{delivery}/redeliver", None),
        ("POST", f"/v1/attune/webhook_endpoints/{mine['id']}/deliveries/{delivery}/redeliver", None),
    ]
    with tenant.http as http:
        for verb, path, body in calls:
            answers: list[tuple[int, str]] = []
            for swapped in (False, True):
                answer = http.request(verb, swap(path, unknown) if swapped else path, json=body)
                answers.append((answer.status_code, swap(answer.text, unknown)))
            assert answers[0] == answers[1], path
            assert answers[0][0] in (400, 404), path
    assert log_of(owner, endpoint)[0]["status"] == "delivered"


def swap(text: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        text = text.replace(old, new)
    return text


def test_an_erased_project_takes_its_webhooks_along(web: Place, inbox: Receiver, relay: Relay) -> None:
    leaving = web.tenant("leaving")
    endpoint = add(leaving, inbox.url + "/a")
    cancelled_job(leaving)
    settled(leaving, endpoint, 1)
    with web.operator as http:
        assert http.delete(f"/v1/attune/projects/{leaving.project_id}").json()["deleted"]
    with web.database.read() as session:
        assert session.get(WebhookEndpoint, endpoint["id"]) is None
