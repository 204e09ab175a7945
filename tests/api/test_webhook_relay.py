"""Deliveries as a customer has them: received over HTTP, verified by `unwrap`, tried again, logged."""

from __future__ import annotations

import json
import time
from typing import Any

import openai
import pytest
from sqlalchemy import select, update

from api.beside.webhook_relay import Relay
from api.beside.webhook_sender import Sender
from core.db import db_now
from core.jobs import jobs
from core.webhooks import queue as webhook_queue
from core.webhooks.models import WebhookDelivery, WebhookEndpoint
from core.webhooks.queue import SCHEDULE_S
from tests.api.hooks import ENDED, OPT_IN, add, cancelled_job, log_of, settled, unwrap
from tests.api.place import Place, Tenant
from tests.api.receiver import Receiver, endless, reset, status, trickle


def make_due(web: Place, endpoint: dict[str, Any]) -> float:
    """Turn the clock on to the endpoint's next try; returns how long that would have been, in seconds."""
    with web.database.begin() as session:
        query = select(WebhookDelivery.next_at - db_now()).where(WebhookDelivery.endpoint_id == endpoint["id"])
        wait_s = session.scalar(query)
        assert wait_s is not None
        session.execute(
            update(WebhookDelivery).where(WebhookDelivery.endpoint_id == endpoint["id"]).values(next_at=db_now())
        )
        session.execute(update(WebhookEndpoint).where(WebhookEndpoint.id == endpoint["id"]).values(claimed_until=0.0))
    return wait_s


def test_c25_each_end_of_a_job_is_delivered_once_and_verified(
    web: Place, tenant: Tenant, inbox: Receiver, relay: Relay
) -> None:
    endpoint = add(tenant, inbox.url + "/a")
    silent = add(tenant, inbox.url + "/b", OPT_IN[:1])
    cancelled = cancelled_job(tenant)
    trained = tenant.job(attune={"label": "here"})
    web.prepare(trained)
    web.publish(web.start(trained), 9, final=True)
    came = inbox.wait("/a", 2)
    events = [unwrap(one, endpoint["signing_secret"]) for one in came]
    assert {event.data.id: event.type for event in events} == {cancelled: ENDED[2], trained: ENDED[0]}
    for one, event in zip(came, events, strict=True):
        assert one.headers["webhook-id"] == event.id
        assert abs(event.created_at - time.time()) < 60
        ours = json.loads(one.body)["attune"]
        job = tenant.http.get(f"/v1/fine_tuning/jobs/{event.data.id}/events").json()["data"]
        assert ours == {"seq": len(job), "status": event.type.rsplit(".", 1)[-1], "project": tenant.project_id}
        with pytest.raises(openai.InvalidWebhookSignatureError):
            unwrap(one, silent["signing_secret"])
    assert [unwrap(one, silent["signing_secret"]).data.id for one in inbox.wait("/b")] == [trained]
    log = log_of(tenant, endpoint)
    assert [(row["status"], len(row["attempts"])) for row in log] == [("delivered", 1)] * 2
    assert {row["event"]["id"] for row in log} == {event.id for event in events}
    assert log_of(tenant, endpoint, limit=1, after=log[0]["id"]) == log[1:]


def test_c25_pauses_and_checkpoints_are_told_to_who_asks(
    web: Place, tenant: Tenant, inbox: Receiver, relay: Relay
) -> None:
    endpoint = add(tenant, inbox.url + "/a", OPT_IN)
    job_id = tenant.job(attune={"label": "here"})
    web.prepare(job_id)
    tenant.openai.fine_tuning.jobs.pause(job_id)
    tenant.openai.fine_tuning.jobs.resume(job_id)
    model_id = web.publish(web.start(job_id), 3)
    bodies = {json.loads(one.body)["type"]: json.loads(one.body) for one in inbox.wait("/a", 3)}
    assert set(bodies) == set(OPT_IN)
    assert [bodies[kind]["attune"]["status"] for kind in OPT_IN] == ["running", "paused", "running"]
    assert bodies[OPT_IN[2]]["attune"]["fine_tuned_model_checkpoint"] == model_id
    by_age = sorted(bodies.values(), key=lambda body: body["attune"]["seq"])
    assert [body["type"] for body in by_age] == [OPT_IN[1], OPT_IN[0], OPT_IN[2]]
    assert endpoint["attune"] == {
        "enabled": True, "disabled_at": None, "disabled_reason": None, "failures": 0, "old_secret_until": None,
    }  # fmt: skip


def test_c25_after_a_rotation_both_secrets_sign_for_a_day(
    web: Place, tenant: Tenant, inbox: Receiver, relay: Relay
) -> None:
    endpoint = add(tenant, inbox.url + "/a")
    path = f"/v1/webhook_endpoints/{endpoint['id']}/rotate_secret"
    second = tenant.http.post(path, json={"keep_old_secret_active_for_24_hours": True}).json()
    assert 86000 < second["attune"]["old_secret_until"] - time.time() < 86500
    cancelled_job(tenant)
    [both] = inbox.wait("/a")
    assert len(both.headers["webhook-signature"].split()) == 2
    for secret in (endpoint["signing_secret"], second["signing_secret"]):
        assert unwrap(both, secret).type == ENDED[2]
    with web.database.begin() as session:  # the day is over
        mine = WebhookEndpoint.id == endpoint["id"]
        session.execute(update(WebhookEndpoint).where(mine).values(old_secret_until=db_now()))
    cancelled_job(tenant)
    later = inbox.wait("/a", 2)[1]
    assert unwrap(later, second["signing_secret"]).type == ENDED[2]
    third = tenant.http.post(path).json()  # at once
    cancelled_job(tenant)
    last = inbox.wait("/a", 3)[2]
    assert unwrap(last, third["signing_secret"]).type == ENDED[2]
    for one, old in ((later, endpoint), (last, second)):
        with pytest.raises(openai.InvalidWebhookSignatureError):
            unwrap(one, old["signing_secret"])


def test_c25_a_failing_receiver_is_tried_for_72_hours(
    web: Place, tenant: Tenant, inbox: Receiver, relay: Relay
) -> None:
    endpoint = add(tenant, inbox.url + "/a")
    inbox.answers["/a"] = status(500)
    cancelled_job(tenant)
    waits: list[float] = []
    for tries in range(1, len(SCHEDULE_S)):
        assert settled(tenant, endpoint, tries)["status"] == "pending"
        waits.append(make_due(web, endpoint))
    assert waits == pytest.approx(SCHEDULE_S[1:], abs=3.0)
    assert sum(SCHEDULE_S) >= 72 * 3600
    given_up = settled(tenant, endpoint, len(SCHEDULE_S))
    assert (given_up["status"], given_up["next_attempt_at"]) == ("failed", None)
    assert {attempt["status_code"] for attempt in given_up["attempts"]} == {500}
    tries = inbox.at("/a")
    assert len({one.headers["webhook-id"] for one in tries}) == 1
    assert len({one.body for one in tries}) == 1
    assert unwrap(tries[-1], endpoint["signing_secret"]).id == given_up["event"]["id"]
    inbox.answers.clear()  # mended, and asked for again
    path = f"/v1/attune/webhook_endpoints/{endpoint['id']}/deliveries/{given_up['id']}/redeliver"
    assert tenant.http.post(path).json()["status"] == "pending"
    make_due(web, endpoint)
    assert settled(tenant, endpoint, len(SCHEDULE_S) + 1)["status"] == "delivered"
    assert inbox.at("/a")[-1].headers["webhook-id"] == tries[0].headers["webhook-id"]
    assert tenant.http.get(f"/v1/webhook_endpoints/{endpoint['id']}").json()["attune"]["failures"] == 0


def test_c25_only_2xx_in_time_is_a_delivery(web: Place, tenant: Tenant, inbox: Receiver, relay: Relay) -> None:
    inbox.answers.update(
        {
            "/moved": status(302, Location=inbox.url + "/elsewhere"),
            "/reset": reset,
            "/trickle": trickle,
            "/endless": endless,
            "/gone": status(410),
        }
    )
    paths = ("/moved", "/reset", "/trickle", "/endless", "/gone", "/good")
    endpoints = {path: add(tenant, inbox.url + path) for path in paths}
    away = add(tenant, "http://127.0.0.1:9/")  # nobody listens
    cancelled_job(tenant)
    said = {path: settled(tenant, endpoint, 1) for path, endpoint in endpoints.items()}
    said["away"] = settled(tenant, away, 1)
    assert {path: row["status"] for path, row in said.items()} == {
        "/moved": "pending", "/reset": "pending", "/trickle": "pending", "/endless": "delivered", "/gone": "failed",
        "/good": "delivered", "away": "pending",
    }  # fmt: skip
    assert "redirects" in said["/moved"]["attempts"][0]["error"]
    assert inbox.at("/elsewhere") == []
    assert "within 1 s" in said["/trickle"]["attempts"][0]["error"]
    assert said["/trickle"]["attempts"][0]["seconds"] < 1.5
    assert "connection failed" in said["away"]["attempts"][0]["error"]
    disabled = tenant.http.get(f"/v1/webhook_endpoints/{endpoints['/gone']['id']}").json()["attune"]
    assert (disabled["enabled"], disabled["disabled_reason"]) == (False, "it answered 410 Gone")
    cancelled_job(tenant)
    inbox.wait("/good", 2)
    assert len(inbox.at("/gone")) == 1
    row = said["/gone"]
    path = f"/v1/attune/webhook_endpoints/{row['webhook_endpoint_id']}"
    refused = tenant.http.post(f"{path}/deliveries/{row['id']}/redeliver")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "webhook_endpoint_disabled")
    inbox.answers.clear()
    assert tenant.http.post(path, json={"attune": {"enabled": True}}).json()["attune"]["enabled"]
    tenant.http.post(f"{path}/deliveries/{row['id']}/redeliver")
    with web.database.begin() as session:  # it rests after its failure
        rests = WebhookEndpoint.id == endpoints["/gone"]["id"]
        session.execute(update(WebhookEndpoint).where(rests).values(claimed_until=0.0))
    assert settled(tenant, endpoints["/gone"], 2)["status"] == "delivered"


def test_c25_dead_receivers_do_not_delay_the_living(web: Place, tenant: Tenant, inbox: Receiver, relay: Relay) -> None:
    dead = [add(tenant, f"{inbox.url}/dead{number}") for number in range(6)]
    for number in range(6):
        inbox.answers[f"/dead{number}"] = lambda request: time.sleep(5)
    other = web.tenant("other")
    alive = add(other, inbox.url + "/alive")
    cancelled_job(tenant)
    inbox.wait("/dead5")
    for _ in range(5):
        cancelled_job(other)
    cancelled_at = time.monotonic()
    came = inbox.wait("/alive", 5)
    assert came[-1].at - cancelled_at < 0.9
    assert all(unwrap(one, alive["signing_secret"]).type == ENDED[2] for one in came)
    assert all(len(inbox.at(f"/dead{number}")) == 1 for number in range(len(dead)))  # one at a time


def test_c25_two_relays_deliver_each_event_once(web: Place, tenant: Tenant, inbox: Receiver, relay: Relay) -> None:
    endpoints = [add(tenant, f"{inbox.url}/{number}") for number in range(4)]
    second = Relay(web.database, Sender("127.0.0.1"), look_every_s=0.02)
    second.start()
    ended = [tenant.job() for _ in range(5)]
    with web.database.begin() as session:
        for job_id in ended:
            jobs.cancel(session, tenant.project_id, job_id)
    for number, endpoint in enumerate(endpoints):
        came = inbox.wait(f"/{number}", len(ended))
        assert sorted(unwrap(one, endpoint["signing_secret"]).data.id for one in came) == sorted(ended)
    time.sleep(0.2)
    second.stop()
    assert len(inbox.received) == len(endpoints) * len(ended)


def test_the_log_is_kept_for_thirty_days(web: Place, tenant: Tenant, inbox: Receiver, relay: Relay) -> None:
    endpoint = add(tenant, inbox.url + "/a")
    cancelled_job(tenant)
    delivery = settled(tenant, endpoint, 1)
    with web.database.begin() as session:
        webhook_queue.forget_old(session)
    assert log_of(tenant, endpoint) == [delivery]
    with web.database.begin() as session:
        mine = WebhookDelivery.id == delivery["id"]
        session.execute(update(WebhookDelivery).where(mine).values(created_at=db_now() - webhook_queue.KEEP_S - 1))
        assert webhook_queue.forget_old(session) == 1
    assert log_of(tenant, endpoint) == []
