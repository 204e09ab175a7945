"""Three times what has to be held: who is refused is told when to return, who is not is served, and it passes."""

from __future__ import annotations

import time
from typing import Any

import httpx

from tests.load.deployment import Deployment, generated
from tests.load.figures import Floor, Row
from tests.load.generator import Call, Plan
from tests.load.requests import GET, create_call

FLOORS = {"get_job": (400.0, 150.0), "create_job": (200.0, 250.0)}  # rate, p99 in ms
TIMES = 3
OPEN = 400  # connections
CALM = 10  # answers in a row
GIVEN_UP_S = 60.0


def measure(place: Deployment, seconds: float) -> list[Row]:
    project, key = place.tenant("overloaded")
    file_id = place.file(key)
    ids = place.copies(place.prepared_job(key, file_id), 1000, status="succeeded", project_id=project)
    return [
        _overload(place, key, ids, "get_job", GET, seconds),
        _overload(place, key, ids, "create_job", create_call(file_id), seconds),
    ]


def _overload(place: Deployment, key: str, ids: list[str], name: str, call: Call, seconds: float) -> Row:
    rate, p99_ms = FLOORS[name]
    plan = Plan(place.address, [key], [call], seconds, OPEN, TIMES * rate, ids=ids)
    report = generated(plan)
    recovery_s = _recovery_s(place, key, ids[0], p99_ms)
    seen: dict[str, Any] = report["calls"][call.name]
    refused = sum(number for status, number in seen["statuses"].items() if status in ("429", "503"))
    others = sum(number for status, number in seen["statuses"].items() if status not in ("200", "429", "503"))
    errors = others + seen["broken"] + seen["without_retry_after"]
    return Row(
        f"{TIMES} times the floor of {name}",
        [
            (Floor(f"overload_{name}_p99_ms", 2 * p99_ms, "ms"), report["p99_ms"]),
            (Floor(f"overload_{name}_unclear", 0, ""), errors),
            (Floor(f"overload_{name}_recovery_s", 10, "s"), recovery_s),
        ],
        report["p50_ms"],
        report["p99_ms"],
        errors,
        f"{report['per_s']:.0f}/s served, {refused} refused with Retry-After in {seen['refused_p99_ms']:.0f} ms (p99)",
    )


def _recovery_s(place: Deployment, key: str, job_id: str, soon_ms: float) -> float:
    """Seconds until answers are given as if nothing had been."""
    begun = time.monotonic()
    calm, calm_at = 0, 0.0
    with place.http(key) as http:
        while calm < CALM and (now := time.monotonic()) - begun < GIVEN_UP_S:
            answer = http.get(f"/v1/fine_tuning/jobs/{job_id}")
            is_soon = answer.status_code == httpx.codes.OK and 1000 * (time.monotonic() - now) <= soon_ms
            calm_at = now if calm == 0 else calm_at
            calm = calm + 1 if is_soon else 0
            time.sleep(0.05)
    return calm_at - begun if calm == CALM else GIVEN_UP_S
