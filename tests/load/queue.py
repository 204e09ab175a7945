"""What stands behind the requests: leases that are beaten by the thousand, and a long queue that two workers empty."""

from __future__ import annotations

import json
import math
import time

from sqlalchemy import func, select

from core.db import Database
from core.models import TERMINAL, Job, JobEvent, JobStatus, Model
from tests.load.deployment import UNCLAIMED, Deployment, mine, piped
from tests.load.figures import Floor, Row

LEASES = 1000
BEAT_S = 10.0
LEASE_S = 60.0
QUEUED = 10_000
PATIENCE_S = 120.0
SLOWEST_PER_S = 5.0  # a drain that is slower is given up


def leases(place: Deployment, seconds: float, number: int = LEASES) -> Row:
    project, key = place.tenant("held")
    place.copies(place.prepared_job(key, place.file(key)), number, **mine(project))
    asked = {
        "database_url": place.settings.resolved_database_url,
        "claims": number,
        "seconds": seconds,
        "every_s": BEAT_S,
        "lease_s": LEASE_S,
    }
    report = piped("tests.load.beats", json.dumps(asked).encode())
    missing = report["wanted"] - report["beats"] + report["lost"]
    return Row(
        f"{number:,} leases, each beaten every {BEAT_S:.0f} s",
        [
            (Floor("lease_beats_per_s", 0.99 * number / BEAT_S, "/s", at_least=True), report["per_s"]),
            (Floor("leases_lost", 0, ""), missing),
        ],
        report["p50_ms"],
        report["p99_ms"],
        missing,
    )


def drain(place: Deployment, number: int = QUEUED) -> Row:
    """Jobs of one step by the fake engine: what is measured is all that is done around training."""
    project, key = place.tenant("queued")
    first = place.prepared_job(key, place.file(key))
    with place.database() as database:
        _until_ended(database, project, PATIENCE_S)  # the workers are up, and have done the first
        begun = time.monotonic()
        ids = place.copies(first, number, **{**UNCLAIMED, "project_id": project})
        _until_ended(database, project, max(PATIENCE_S, number / SLOWEST_PER_S))
        spent_s = time.monotonic() - begun
        with database.read() as session:
            ended = select(func.count()).where(Job.project_id == project, Job.status == JobStatus.SUCCEEDED)
            succeeded = (session.scalar(ended) or 0) - 1
            models = (session.scalar(select(func.count()).where(Model.project_id == project)) or 0) - 1
            events = session.scalar(select(func.count()).select_from(JobEvent).where(JobEvent.job_id.in_(ids[:1000])))
            seqs = session.scalar(select(func.sum(Job.event_seq)).where(Job.id.in_(ids[:1000])))
            took_s = Job.finished_at - Job.attempt_started_at
            took = session.scalars(select(took_s).where(Job.id.in_(ids[:1000])).order_by(took_s)).all()
    lost = number - succeeded + abs(succeeded - models) + abs((events or 0) - (seqs or 0))
    took_ms = [1000 * seconds for seconds in took if seconds is not None]
    return Row(
        f"{number:,} queued jobs, 2 workers, fake engine",
        [
            (Floor("drained_jobs_per_s", 20, "/s", at_least=True), succeeded / spent_s),
            (Floor("drained_jobs_lost", 0, ""), lost),
        ],
        took_ms[len(took_ms) // 2] if took_ms else math.nan,
        took_ms[int(len(took_ms) * 0.99)] if took_ms else math.nan,
        lost,
        f"{spent_s:.0f} s",
    )


def _until_ended(database: Database, project: str, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    unfinished = select(func.count()).where(Job.project_id == project, Job.status.not_in(TERMINAL))
    while time.monotonic() < deadline:
        with database.read() as session:
            if not session.scalar(unfinished):
                return
        time.sleep(0.5)
