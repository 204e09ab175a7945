"""kill -9 of the worker in the middle of a batch, over Postgres, Redis and S3: every line answered, and once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from openai import OpenAI
from openai.types import Batch

from tests.engine.tiny_base import make_base
from tests.live import BASE, Live, live_service

LINES = 90
KILLS = 1
LIMIT_S = 120.0


@pytest.fixture
def live(tmp_path: Path, postgres_url: str, redis_url: str, s3_settings: dict[str, str]) -> Iterator[Live]:
    environment = {
        "ATTUNE_DATABASE_URL": postgres_url,
        "ATTUNE_BROKER_URL": redis_url,
        "ATTUNE_BEAT_S": "0.5",
        **s3_settings,
    }
    with live_service(tmp_path / "data", make_base(tmp_path / BASE), environment) as live:
        live.wait_for_worker()
        yield live


def wait(client: OpenAI, batch_id: str, until: Callable[[Batch], bool]) -> Batch:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        batch = client.batches.retrieve(batch_id)
        if until(batch) or batch.status in ("completed", "failed", "expired", "cancelled"):
            return batch
        time.sleep(0.05)
    raise TimeoutError(f"batch {batch_id} is still {batch.status}: {batch.request_counts}")


def answered(batch: Batch) -> int:
    assert batch.request_counts is not None
    return batch.request_counts.completed + batch.request_counts.failed


def worker_of(live: Live) -> psutil.Process:
    """The process that holds the claim: celery's own."""
    (worker,) = live.processes("worker.app")
    return worker


def test_a_killed_worker_costs_no_line_and_doubles_none(live: Live) -> None:
    client = live.client()
    asked = [
        {
            "custom_id": f"request-{number}",
            "method": "POST",
            "url": "/v1/completions",
            # one line in ten is refused, so that both files are put together over all attempts
            "body": {"model": BASE, "prompt": f"order {number}", "max_tokens": 0 if number % 10 == 9 else 24},
        }
        for number in range(LINES)
    ]
    data = "\n".join(json.dumps(one) for one in asked).encode()
    file = client.files.create(file=("batch.jsonl", data), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")
    landed: list[int] = []
    for _ in range(KILLS):
        before = landed[-1] if landed else 0
        batch = wait(client, batch.id, lambda now, before=before: answered(now) > before)
        assert (batch.status, before < answered(batch) < LINES) == ("in_progress", True), "the kill has to land"
        landed.append(answered(batch))
        worker_of(live).kill()
    batch = wait(client, batch.id, lambda _: False)
    assert (batch.status, len(landed)) == ("completed", KILLS)
    found: dict[str, list[str]] = {}
    for name, file_id in (("output", batch.output_file_id), ("errors", batch.error_file_id)):
        rows = [json.loads(row) for row in client.files.content(file_id or "").read().splitlines()]
        assert all((row["response"]["status_code"] == 200) == (name == "output") for row in rows)
        found[name] = [row["custom_id"] for row in rows]
    refused = [one["custom_id"] for one in asked if one["body"]["max_tokens"] == 0]
    assert found == {
        "output": [one["custom_id"] for one in asked if one["custom_id"] not in refused],
        "errors": refused,
    }
