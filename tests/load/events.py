"""What the service tells by itself: events to hundreds of listeners, and webhooks, beside a receiver that is dead."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import func, select

from core.db import Database
from core.jobs import claims, jobs
from core.jobs.claims import Claim, WorkerFacts
from core.jobs.jobs import NewEvent
from core.webhooks.models import WebhookDelivery
from tests.bench.upload import MIB, Peak
from tests.live import ROOT
from tests.load.deployment import LABEL, Deployment, mine
from tests.load.figures import Floor, Row
from tests.load.generator import quantile

LISTENERS = 500
FOLLOWED = 50  # jobs
EVENT_EVERY_S = 1.0  # of each job
WORKER = WorkerFacts("listened", 1 << 40, labels=(LABEL,))
BACKLOG = 1000  # webhooks
TRICKLE_S, TRICKLE_PER_S = 15.0, 20
WAIT_S = 120.0


@contextmanager
def _program(module: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", module], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _ended(process: subprocess.Popen[str]) -> Any:
    """The last line of a program whose input ends."""
    output, _ = process.communicate(timeout=WAIT_S)
    return json.loads(output.splitlines()[-1])


def listeners(place: Deployment, seconds: float, count: int = LISTENERS, prefix: str = "") -> Row:
    project, key = place.tenant("followed")
    first = place.prepared_job(key, place.file(key))
    place.copies(first, FOLLOWED, **mine(project))
    claimed: list[Claim] = []
    with place.database() as database:
        for _ in range(FOLLOWED):
            with database.begin() as session:
                claim = claims.claim_training(session, WORKER, 3600.0)
            assert claim is not None
            claimed.append(claim)
        with Peak(place.web) as peak, _program("tests.load.listener") as ears:
            assert ears.stdin is not None
            assert ears.stdout is not None
            ids = [claim.job_id for claim in claimed]
            ears.stdin.write(json.dumps({"address": place.address, "key": key, "jobs": ids, "count": count}) + "\n")
            ears.stdin.flush()
            assert ears.stdout.readline() == "ready\n"
            written = _write(database, claimed, seconds)
            time.sleep(5.0)  # for what is late
            report = _ended(ears)
    each = count // FOLLOWED
    heard = sum(report["heard"].get(job, {}).get(str(seq), 0) for job, seqs in written.items() for seq in seqs)
    lost = each * sum(len(seqs) for seqs in written.values()) - heard
    errors = lost + report["broken"] + report["out_of_order"] + count - report["statuses"].get("200", 0)
    return Row(
        f"{count} listeners{', SQLite' if prefix else ''}",
        [
            (Floor(f"{prefix}event_p99_ms", 1000, "ms"), report["p99_ms"]),
            (Floor(f"{prefix}listeners_web_rss_mib", 300, "MiB"), peak.bytes / MIB),
            (Floor(f"{prefix}events_lost", 0, ""), errors),
        ],
        report["p50_ms"],
        report["p99_ms"],
        errors,
        f"{report['events']} heard, slowest {report['max_ms']:.0f} ms",
    )


def _write(database: Database, claimed: list[Claim], seconds: float) -> dict[str, list[int]]:
    """An event of every job in turn, evenly over time; the numbers that each job's events got."""
    written: dict[str, list[int]] = {claim.job_id: [] for claim in claimed}
    begun = time.perf_counter()
    for number in range(round(seconds * len(claimed) / EVENT_EVERY_S)):
        due = begun + number * EVENT_EVERY_S / len(claimed)
        time.sleep(max(0.0, due - time.perf_counter()))
        claim = claimed[number % len(claimed)]
        with database.begin() as session:
            event = NewEvent(f"Step {number}", type="metrics", data={"at": time.time(), "train_loss": 1.25})
            assert claims.report(session, claim, [event]) is not None
        written[claim.job_id].append(claim.job.event_seq + len(written[claim.job_id]) + 1)
    return written


def webhooks(place: Deployment, backlog: int = BACKLOG, trickle_s: float = TRICKLE_S) -> Row:
    project, key = place.tenant("told")
    first = place.prepared_job(key, place.file(key))
    trickled = round(trickle_s * TRICKLE_PER_S)
    ids = place.copies(first, backlog + trickled, **mine(project))
    with _program("tests.load.inbox") as inbox:
        assert inbox.stdout is not None
        address = f"http://127.0.0.1:{inbox.stdout.readline().strip()}"
        for name in ("fast", "dead"):
            endpoint = {"name": name, "url": f"{address}/{name}", "event_types": ["fine_tuning.job.cancelled"]}
            with place.http(key) as http:
                http.post("/v1/attune/webhook_endpoints", json=endpoint).raise_for_status()
        left_at: dict[str, float] = {}
        with place.database() as database:
            for start in range(0, backlog, 100):
                left_at |= dict.fromkeys(ids[start : min(backlog, start + 100)], time.time())  # before the commit
                with database.begin() as session:
                    for job_id in ids[start : min(backlog, start + 100)]:
                        jobs.cancel(session, project, job_id)
            _until_delivered(database, backlog)
            for job_id in ids[backlog:]:
                left_at[job_id] = time.time()
                with database.begin() as session:
                    jobs.cancel(session, project, job_id)
                time.sleep(1 / TRICKLE_PER_S)
            _until_delivered(database, len(ids))
        came: list[tuple[str, str, float]] = _ended(inbox)
    first_at = {job_id: at for _, job_id, at in reversed(came)}
    spent_s = max(first_at.get(job_id, math.inf) for job_id in ids[:backlog]) - min(left_at.values())
    delays_s = [first_at.get(job_id, math.inf) - left_at[job_id] for job_id in ids[backlog:]]
    again = len(came) - len({name for name, _, _ in came})
    lost = len(ids) - len(first_at)
    p99_ms = 1000 * quantile(delays_s, 0.99)
    return Row(
        "webhooks, a dead endpoint beside",
        [
            (Floor("webhooks_per_s", 50, "/s", at_least=True), backlog / spent_s),
            (Floor("webhooks_beside_dead_p99_ms", 1000, "ms"), p99_ms),
            (Floor("webhooks_lost", 0, ""), lost),
        ],
        1000 * quantile(delays_s, 0.5),
        p99_ms,
        lost,
        f"{backlog} at once, then {TRICKLE_PER_S}/s; {again} sent twice",
    )


def _until_delivered(database: Database, number: int) -> None:
    """Until so many deliveries have arrived, or it takes too long: the figures say what is missing."""
    deadline = time.monotonic() + WAIT_S
    arrived = select(func.count()).select_from(WebhookDelivery).where(WebhookDelivery.delivered_at.is_not(None))
    while time.monotonic() < deadline:
        with database.read() as session:
            if (session.scalar(arrived) or 0) >= number:
                return
        time.sleep(0.25)
