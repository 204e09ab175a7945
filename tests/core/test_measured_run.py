"""What a job keeps of its run beside its plan: memory as the engine plans it, time by what was measured before."""

from __future__ import annotations

import pytest

from core.db import Database
from core.jobs import claims
from core.jobs.claims import Claim
from core.models import BaseModelRow, Job
from core.planning import measured_run
from core.planning.measured_run import MeasuredRun
from core.planning.models import Throughput
from core.protocol import Started
from core.spec import Execution
from tests.api.place import RESOLVED, SHAPE
from tests.core.rows import WORKER, add_file, add_job, add_project

PLAN = {
    "training_examples": 12, "training_tokens": 1000, "supervised_tokens": 400, "validation_examples": 4,
    "validation_tokens": 100, "memory_bytes": {"weights": 7},
}  # fmt: skip
EXECUTION = Execution(precision="float32", micro_tokens=512, threads=1)


@pytest.fixture
def claim(database: Database) -> Claim:
    """Of a job of three passes with one validation at the end, which is prepared and taken by a worker."""
    base = BaseModelRow(id="tiny", source="folder", location="t", revision="1", status="ready", shape=SHAPE)
    with database.begin() as session:
        add_project(session)
        add_file(session)
        session.add(base)
        add_job(session)
    with database.begin() as session:
        preparing = claims.claim_preparation(session, "prepare", 60)
        assert preparing is not None
        assert claims.prepared(
            session, preparing, resolved=RESOLVED, reasons={}, plan=PLAN, required_bytes=7, template_date="2026-01-01"
        )
    with database.begin() as session:
        taken = claims.claim_training(session, WORKER, 60)
    assert taken is not None
    return taken


def measure(database: Database, tokens_per_s: float) -> None:
    row = Throughput(
        device_name="fast", base_model="tiny", quantization="nf4", training="lora", tokens_per_s=tokens_per_s
    )
    with database.begin() as session:
        session.merge(row)


def begin(database: Database, claim: Claim, device_name: str, before: MeasuredRun | None) -> MeasuredRun:
    """What the job shows once an engine has begun on such a device."""
    started = Started(
        execution=EXECUTION, device="cpu", device_name=device_name, memory_bytes={"weights": 300, "head": 50},
        total_steps=9, resumed_step=0, training_examples=12, training_tokens=1000, supervised_tokens=400,
        trainable_parameters=1, total_parameters=2, data_sha256="0", template_hash="t",
    )  # fmt: skip
    with database.begin() as session:
        run = measured_run.begun(session, claim.job, started, before)
        assert claims.started(
            session, claim, execution=EXECUTION, run=run, template_hash=started.template_hash, total_steps=9
        )
    with database.read() as session:
        job = session.get_one(Job, claim.job_id)
    assert measured_run.plan_of(job) == PLAN  # whatever stands beside it
    kept = measured_run.of_job(job)
    assert kept == run
    return run


def test_a_run_is_planned_on_the_device_that_has_it(database: Database, claim: Claim) -> None:
    assert measured_run.of_job(claim.job) is None
    first = begin(database, claim, "fast", None)
    assert first.planned_memory_bytes == {"weights": 300, "head": 50}
    assert first.planned_s is None  # nothing was measured there

    measure(database, tokens_per_s=100.0)
    planned = begin(database, claim, "fast", None)
    # Three passes of 1000 tokens, four validations at half the work of a training step (three by epoch, one in between)
    assert planned.planned_s == (3 * 1000 + 0.5 * 4 * 100) / 100


def test_the_time_that_was_planned_first_stays_and_time_taken_adds_up(database: Database, claim: Claim) -> None:
    measure(database, tokens_per_s=100.0)
    first = begin(database, claim, "fast", None)
    measure(database, tokens_per_s=200.0)  # by a job in between
    stopped = first.model_copy(update={"trained_s": 12.5, "peak_memory_bytes": 340})
    resumed = begin(database, claim, "fast", stopped)
    assert (resumed.planned_s, resumed.trained_s) == (first.planned_s, 12.5)
    assert resumed.peak_memory_bytes is None  # that of the attempt before is not this one's
    elsewhere = begin(database, claim, "unknown", stopped)
    assert (elsewhere.planned_s, elsewhere.trained_s) == (None, 12.5)
