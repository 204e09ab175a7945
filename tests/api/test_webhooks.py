"""Webhooks as a customer has them: set up by the official client, received over HTTP, verified by `unwrap`."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from openai import OpenAI
from sqlalchemy import select, update

from api.webhook_relay import Relay
from api.webhook_sender import ANSWER_BYTES, Sender
from core import ids, jobs, signatures, webhook_queue
from core.db import db_now
from core.webhook_models import WebhookDelivery, WebhookEndpoint
from core.webhook_queue import SCHEDULE_S
from tests.api.place import Place, Tenant
from tests.api.receiver import Received, Receiver, endless, receiver, reset, status, trickle

ENDED: list[Any] = [f"fine_tuning.job.{status}" for status in ("succeeded", "failed", "cancelled")]
OPT_IN: list[Any] = [f"fine_tuning.job.{what}" for what in ("running", "paused", "checkpoint.created")]
OF_BATCHES: list[Any] = [f"batch.{status}" for status in ("completed", "failed", "expired", "cancelled")]
needs_endpoints = pytest.mark.skipif(
    not hasattr(OpenAI(api_key="x").webhooks, "create"), reason="this client cannot set endpoints up"
)


@pytest.fixture
def inbox() -> Iterator[Receiver]:
    with receiver() as running:
        yield running


@pytest.fixture
def relay(web: Place) -> Iterator[Relay]:
    relay = Relay(web.database, Sender("127.0.0.1", timeout_s=1.0), look_every_s=0.05)
    relay.start()
    yield relay
    relay.stop()


def add(tenant: Tenant, url: str, types: list[Any] | None = None, name: str = "hook") -> dict[str, Any]:
    body = {"name": name, "url": url, "event_types": types or ENDED}
    answer = tenant.http.post("/v1/attune/webhook_endpoints", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def cancelled_job(tenant: Tenant) -> str:
    job_id = tenant.job()
    tenant.openai.fine_tuning.jobs.cancel(job_id)
    return job_id


def log_of(tenant: Tenant, endpoint: dict[str, Any], **query: Any) -> list[dict[str, Any]]:
    answer = tenant.http.get(f"/v1/attune/webhook_endpoints/{endpoint['id']}/deliveries", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def settled(tenant: Tenant, endpoint: dict[str, Any], tries: int, timeout_s: float = 10.0) -> dict[str, Any]:
    """The endpoint's only delivery, once so many tries are logged."""
    deadline = time.monotonic() + timeout_s
    while True:
        log = log_of(tenant, endpoint)
        if log and len(log[0]["attempts"]) >= tries:
            return log[0]
        assert time.monotonic() < deadline, log
        time.sleep(0.02)


def unwrap(one: Received, secret: str) -> Any:
    return OpenAI(api_key="x").webhooks.unwrap(one.body, one.headers, secret=secret)


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


def test_a_long_answer_is_read_to_its_bound(inbox: Receiver) -> None:
    """The receiver may send gigabytes: 64 kB are taken, and the connection is closed."""
    inbox.answers["/a"] = endless
    started = time.monotonic()
    outcome = Sender("127.0.0.1").send(inbox.url + "/a", [signatures.new_secret()], "evt_1", b"{}")
    assert (outcome.status_code, outcome.error) == (200, None)
    assert time.monotonic() - started < 2.0
    assert ANSWER_BYTES == 64 * 1024


def test_proxies_of_the_environment_are_not_asked(inbox: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert httpx.URL(inbox.url).host == "127.0.0.1"
    assert Sender("127.0.0.1").send(inbox.url + "/a", [signatures.new_secret()], "evt_1", b"{}").status_code == 204


def test_the_host_that_is_asked_for_stays_in_the_request(inbox: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The address is pinned; name and port reach the receiver as the URL has them."""
    port = int(inbox.url.rsplit(":", 1)[1])
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("127.0.0.1", port))])
    outcome = Sender("hooks.lan").send(f"http://hooks.lan:{port}/a?b=c", [signatures.new_secret()], "evt_1", b"{}")
    assert outcome.status_code == 204
    [one] = inbox.at("/a?b=c")
    assert one.headers["host"] == f"hooks.lan:{port}"
    refused = Sender("").send("http://rebound.example/", [signatures.new_secret()], "evt_1", b"{}")
    assert refused.status_code is None
    assert "127.0.0.1 is no address of the internet" in (refused.error or "")
    assert len(inbox.received) == 1


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


def test_tls_asks_for_the_name_and_checks_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate of the URL's host is accepted at the pinned address, another's is not."""
    certificate, key = self_signed("hooks.lan", tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    asked: list[str | None] = []
    context.sni_callback = lambda _, name, __: asked.append(name)
    with receiver(context) as inbox:
        port = int(inbox.url.rsplit(":", 1)[1])
        monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("127.0.0.1", port))])
        sender = Sender("hooks.lan,other.lan")
        good = sender.send(f"https://hooks.lan:{port}/a", [signatures.new_secret()], "evt_1", b"{}")
        assert (good.status_code, good.error) == (204, None)
        wrong = sender.send(f"https://other.lan:{port}/a", [signatures.new_secret()], "evt_1", b"{}")
        assert wrong.status_code is None
        assert "certificate" in (wrong.error or "").lower()
    assert asked == ["hooks.lan", "other.lan"]
    assert len(inbox.received) == 1


def self_signed(name: str, folder: Path) -> tuple[Path, Path]:
    """(certificate, key) of a host that is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    files = (folder / "certificate.pem", folder / "key.pem")
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files
