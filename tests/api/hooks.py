"""Webhooks for tests: endpoints set up, their deliveries looked at, the clock turned on to their next try."""

from __future__ import annotations

import time
from typing import Any

from openai import OpenAI

from tests.api.place import Tenant
from tests.api.receiver import Received

ENDED: list[Any] = [f"fine_tuning.job.{status}" for status in ("succeeded", "failed", "cancelled")]
OPT_IN: list[Any] = [f"fine_tuning.job.{what}" for what in ("running", "paused", "checkpoint.created")]


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
