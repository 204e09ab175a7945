"""Webhooks from the service to a real receiver, verified by the client's own `unwrap` (C25)."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.api.receiver import Received, Receiver, receiver, status
from tests.contract.place import BASE, Project, examples, upload

CANCELLED = "fine_tuning.job.cancelled"


@pytest.fixture
def inbox() -> Iterator[Receiver]:
    with receiver() as running:
        yield running


def add(client: OpenAI, url: str) -> Any:
    body = {"name": "suite", "url": url, "event_types": [CANCELLED]}
    return client.post("/webhook_endpoints", cast_to=object, body=body)


def cancel_a_job(client: OpenAI, training_file: str) -> str:
    job = client.fine_tuning.jobs.create(model=BASE, training_file=training_file)
    return client.fine_tuning.jobs.cancel(job.id).id


def unwrapped(client: OpenAI, one: Received, secret: str) -> Any:
    return client.webhooks.unwrap(one.body, one.headers, secret=secret)


def test_c25_an_end_is_told_and_verified(fresh: Project, inbox: Receiver) -> None:
    client = fresh.client()
    endpoint = add(client, f"{inbox.url}/end")
    job_id = cancel_a_job(client, upload(client, examples(12)))
    (one,) = inbox.wait("/end")
    event = unwrapped(client, one, endpoint["signing_secret"])
    assert (event.object, event.type, event.data.id) == ("event", CANCELLED, job_id)
    assert one.headers["webhook-id"] == event.id
    with pytest.raises(openai.InvalidWebhookSignatureError):
        unwrapped(client, one, "whsec_" + base64.b64encode(b"k" * 32).decode())
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.unwrap(one.body.replace(job_id.encode(), b"ftjob-x"), one.headers, secret="whsec_eHh4")


def test_c25_both_secrets_sign_after_a_rotation(fresh: Project, inbox: Receiver) -> None:
    client = fresh.client()
    endpoint = add(client, f"{inbox.url}/rotated")
    path = f"/webhook_endpoints/{endpoint['id']}"
    renewed: Any = client.post(
        f"{path}/rotate_secret", cast_to=object, body={"keep_old_secret_active_for_24_hours": True}
    )
    tested: Any = client.post(f"{path}/test", cast_to=object, body={"event_type": CANCELLED})
    assert tested["status_code"] == 204
    (one,) = inbox.wait("/rotated")
    assert len(one.headers["webhook-signature"].split()) == 2
    for secret in (endpoint["signing_secret"], renewed["signing_secret"]):
        assert unwrapped(client, one, secret).type == CANCELLED
    final: Any = client.post(f"{path}/rotate_secret", cast_to=object, body={})
    client.post(f"{path}/test", cast_to=object, body={"event_type": CANCELLED})
    last = inbox.wait("/rotated", 2)[1]
    assert unwrapped(client, last, final["signing_secret"]).type == CANCELLED
    with pytest.raises(openai.InvalidWebhookSignatureError):
        unwrapped(client, last, renewed["signing_secret"])


@pytest.mark.long
def test_c25_a_failed_delivery_is_tried_again(fresh: Project, inbox: Receiver) -> None:
    client = fresh.client()
    inbox.answers["/later"] = status(500)
    endpoint = add(client, f"{inbox.url}/later")
    cancel_a_job(client, upload(client, examples(12)))
    inbox.wait("/later")
    del inbox.answers["/later"]
    first, second = inbox.wait("/later", 2, timeout_s=30)
    assert second.at - first.at > 3
    assert (first.body, first.headers["webhook-id"]) == (second.body, second.headers["webhook-id"])
    assert unwrapped(client, second, endpoint["signing_secret"]).type == CANCELLED
    log: Any = client.get(f"/attune/webhook_endpoints/{endpoint['id']}/deliveries", cast_to=object)
    codes = [attempt["status_code"] for attempt in log["data"][0]["attempts"]]
    assert codes in ([500, 204], [500]), "the receiver has it before the log does"
