"""Requests as fast as they come: one job looked at, jobs listed, jobs created; and a steady mix of them."""

from __future__ import annotations

import json
from typing import Any

from tests.load.deployment import Deployment, generated, job_body
from tests.load.figures import Floor, Row
from tests.load.generator import Call, Plan

PATH = "/v1/fine_tuning/jobs"
GET = Call("get", f"{PATH}/{{id}}")
LIST = Call("list", PATH)
JOBS = 10_000
MANY_JOBS = 1_000_000
CONNECTIONS = 32


def create_call(file_id: str) -> Call:
    """Bodies that differ, as those of different people do."""
    body = {**job_body(file_id), "metadata": {"number": "{n}"}}
    return Call("create", PATH, "POST", json.dumps(body))


def upload_call() -> Call:
    turns = [{"role": "user", "content": "order {n}?"}, {"role": "assistant", "content": "today"}]
    line = json.dumps({"messages": turns})
    form = (
        '--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
        '--x\r\nContent-Disposition: form-data; name="file"; filename="orders.jsonl"\r\n\r\n'
        f"{chr(10).join([line] * 20)}\r\n--x--\r\n"
    )
    return Call("upload", "/v1/files", "POST", form, "multipart/form-data; boundary=x")


def failures(report: dict[str, Any]) -> int:
    """Answers of 5xx, and calls that got none."""
    return sum(
        call["broken"] + sum(number for status, number in call["statuses"].items() if status.startswith("5"))
        for call in report["calls"].values()
    )


def row(load: str, name: str, report: dict[str, Any], per_s: float, p99_ms: float, note: str = "") -> Row:
    """Held against a rate, a tail, and no failure."""
    errors = failures(report)
    return Row(
        load,
        [
            (Floor(f"{name}_per_s", per_s, "/s", at_least=True), report["per_s"]),
            (Floor(f"{name}_p99_ms", p99_ms, "ms"), report["p99_ms"]),
            (Floor(f"{name}_errors", 0, ""), errors),
        ],
        report["p50_ms"],
        report["p99_ms"],
        errors,
        note,
    )


def measure(place: Deployment, seconds: float, many: int = MANY_JOBS) -> list[Row]:
    project, key = place.tenant("ten thousand")
    first = place.prepared_job(key, place.file(key))
    ended = {"status": "succeeded", "project_id": project}
    ids = place.copies(first, JOBS, **ended)

    def run(call: Call, key: str = key, seconds: float = seconds) -> dict[str, Any]:
        return generated(Plan(place.address, [key], [call], seconds, CONNECTIONS, ids=ids[:1000]))

    run(GET, seconds=min(5.0, seconds))  # warm
    rows = [row("GET a job, 32 connections", "get_job", run(GET), 400, 150)]
    few = run(LIST)
    rows.append(row(f"list 20 of {JOBS:,} jobs", "list_jobs", few, 250, 200))
    other, other_key = place.tenant("a million")
    place.copies(first, many, **{**ended, "project_id": other})
    lots = run(LIST, other_key)
    again = run(LIST)  # beside it: the speed of a shared machine moves
    share = lots["per_s"] / ((few["per_s"] + again["per_s"]) / 2)
    rows.append(
        Row(
            f"list 20 of {many:,} jobs",
            [(Floor("list_many_over_few", 0.8, "of the rate", at_least=True), share)],
            lots["p50_ms"],
            lots["p99_ms"],
            failures(lots),
            f"{lots['per_s']:.0f}/s",
        )
    )
    _, made_key = place.tenant("creates")
    created = run(create_call(place.file(made_key)), made_key)
    rows.append(row("POST a job, bodies differ", "create_job", created, 200, 250, "fsync on"))
    return rows
