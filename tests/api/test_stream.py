"""A job's events as they are written, to one listener and to hundreds."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from api.routes import stream
from api.together import listeners
from core import ids
from core.jobs import claims, jobs
from core.jobs.jobs import NewEvent
from tests.api.place import Place, Tenant

LISTENERS = 200
JOBS = 20


def path(job_id: str) -> str:
    return f"/v1/attune/fine_tuning/jobs/{job_id}/stream"


def parse(text: str) -> list[tuple[int, dict[str, Any]]]:
    """(id, data) of the messages of a stream."""
    found: list[tuple[int, dict[str, Any]]] = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.strip().splitlines())
        if {"id", "data"} <= lines.keys():
            found.append((int(lines["id"]), json.loads(lines["data"])))
    return found


@contextmanager
def heard(tenant: Tenant, job_id: str, headers: dict[str, str] | None = None) -> Iterator[Iterator[str]]:
    with tenant.http as http, http.stream("GET", path(job_id), headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield answer.iter_lines()


def next_id(lines: Iterator[str]) -> int:
    return int(next(line for line in lines if line.startswith("id: ")).removeprefix("id: "))


def test_events_come_as_they_are_written_until_the_last(tenant: Tenant) -> None:
    job_id = tenant.job()
    place = tenant.place
    with heard(tenant, job_id) as lines:
        assert [next_id(lines), next_id(lines)] == [1, 2]
        place.prepare(job_id)
        claim = place.start(job_id)
        started = time.monotonic()
        seen = [next_id(lines), next_id(lines)]
        assert time.monotonic() - started < 3
        with place.database.begin() as session:
            claims.report(session, claim, [NewEvent(f"step {n}", type="metrics", data={"step": n}) for n in range(150)])
        seen += [next_id(lines) for _ in range(150)]
        place.give_up(claim)
        rest = parse("\n".join(lines))
    assert seen == list(range(3, 155))
    assert [event["message"] for _, event in rest] == ["The job was cancelled"]
    listed = tenant.http.get(f"/v1/fine_tuning/jobs/{job_id}/events?limit=1000").json()["data"]
    whole = tenant.http.get(path(job_id))
    assert [event for _, event in parse(whole.text)] == listed[::-1]


def test_a_listener_goes_on_where_it_left(tenant: Tenant) -> None:
    job_id = tenant.job()
    tenant.openai.fine_tuning.jobs.cancel(job_id)
    listed = tenant.http.get(f"/v1/fine_tuning/jobs/{job_id}/events").json()["data"]
    for last in ("2", listed[1]["id"]):
        answer = tenant.http.get(path(job_id), headers={"Last-Event-ID": last})
        assert parse(answer.text) == [(3, listed[0])]
        assert answer.headers["cache-control"] == "no-store"
    assert tenant.http.get(path(job_id), params={"after": "1"}).text.count("id: ") == 2
    assert tenant.http.get(path(job_id), headers={"Last-Event-ID": "3"}).status_code == 204
    wrong = tenant.http.get(path(job_id), headers={"Last-Event-ID": "ftevent-of-nobody"})
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, "invalid_cursor")


def test_another_projects_job_cannot_be_followed(tenant: Tenant, web: Place) -> None:
    job_id = tenant.job()
    refused = web.tenant().http.get(path(job_id))
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "fine_tune_not_found")


def test_a_revoked_key_hears_no_more(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(stream, "RECHECK_S", 0.1)
    job_id = tenant.job()
    parts = ids.key_parts(tenant.key)
    assert parts is not None
    with heard(tenant, job_id) as lines:
        assert [next_id(lines), next_id(lines)] == [1, 2]
        assert next(line for line in lines if line.startswith(":")) == ": still here"
        with tenant.place.operator as http:
            assert http.delete(f"/v1/attune/keys/{parts[0]}").status_code == 200
        assert parse("\n".join(lines)) == []


def test_two_hundred_listeners_cost_no_threads(web: Place) -> None:
    """Each hears all and in order, and the pool that answers requests does not grow."""
    tenant = web.tenant()
    file_id = tenant.upload()
    with ThreadPoolExecutor(4) as pool:
        job_ids = list(pool.map(lambda _: tenant.job(training_file=file_id), range(JOBS)))
    before = threading.active_count()
    peak = 0
    delays: list[float] = []
    written_at = 0.0

    async def listen(http: httpx.AsyncClient, job_id: str, opened: asyncio.Semaphore) -> list[int]:
        ids: list[int] = []
        async with http.stream("GET", path(job_id)) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("id: "):
                    ids.append(int(line[4:]))
                    if len(ids) == 2:
                        opened.release()
                if len(ids) == 3 and line.startswith("data: "):
                    delays.append(time.monotonic() - written_at)
        return ids

    async def run() -> list[list[int]]:
        nonlocal peak, written_at
        opened = asyncio.Semaphore(0)
        limits = httpx.Limits(max_connections=LISTENERS)
        headers = {"Authorization": f"Bearer {tenant.key}"}
        async with httpx.AsyncClient(
            base_url=web.url, headers=headers, limits=limits, timeout=60, trust_env=False, verify=False
        ) as http:
            tasks = [asyncio.create_task(listen(http, job_ids[n % JOBS], opened)) for n in range(LISTENERS)]
            for _ in range(LISTENERS):
                await opened.acquire()
            peak = threading.active_count()
            written_at = time.monotonic()
            with web.database.begin() as session:
                for job_id in job_ids:
                    jobs.cancel(session, tenant.project_id, job_id)
            return await asyncio.gather(*tasks)

    heard_ids = asyncio.run(run())
    assert heard_ids == [[1, 2, 3]] * LISTENERS
    assert peak - before <= 40, "no more than the pool that answers every request"
    assert sorted(delays)[LISTENERS // 2] < 10  # before a heartbeat: they were woken
