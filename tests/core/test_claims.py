"""A claim fences every write; nothing is claimed twice, lost in silence, or changed after its end."""

from __future__ import annotations

import threading
import time

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.exc import DatabaseError

from core import migrate
from core.db import Database, db_now
from core.errors import AttuneError, NotFound, Unavailable
from core.jobs import claims, jobs, losses
from core.jobs.claims import Claim, WorkerFacts
from core.jobs.holding import Holding
from core.jobs.jobs import NewEvent
from core.models import TERMINAL, TRANSITIONS, Job, JobEvent, JobStatus, Snapshot
from tests.core.rows import WORKER, add_file, add_job, add_project, queued_job


@pytest.fixture
def database(database: Database) -> Database:
    """With a project and a file."""
    with database.begin() as session:
        add_project(session)
        add_project(session, "proj_two")
        add_file(session)
    return database


def claim_one(database: Database, worker: WorkerFacts = WORKER, lease_s: float = 60.0) -> Claim | None:
    with database.begin() as session:
        return claims.claim_training(session, worker, lease_s)


def job_of(database: Database, job_id: str) -> Job:
    with database.read() as session:
        return session.get_one(Job, job_id)


def event_seqs(database: Database, job_id: str) -> list[int]:
    with database.read() as session:
        return list(session.scalars(select(JobEvent.seq).where(JobEvent.job_id == job_id).order_by(JobEvent.seq)))


def test_the_tables_are_what_the_migrations_make(database: Database) -> None:
    assert migrate.missing_changes(database) == []


def test_a_write_tried_again_is_made_once_whether_or_not_the_first_came_through(database: Database) -> None:
    queued_job(database)
    claim = claim_one(database)
    assert claim is not None
    row = Snapshot(job_id=claim.job_id, step=5, attempt=claim.attempt, storage_key="key", bytes=1, sha256="0" * 64)

    def write(*, comes_through: bool) -> None:
        with database.begin() as session:
            assert claims.add_snapshot(session, claim, row, keep=2) is not None
            if not comes_through:
                raise Unavailable("the connection ended at the commit")

    def snapshots() -> int:
        with database.read() as session:
            return len(session.scalars(select(Snapshot)).all())

    with pytest.raises(Unavailable):
        write(comes_through=False)
    assert snapshots() == 0
    write(comes_through=True)
    assert snapshots() == 1
    write(comes_through=True)  # the answer to the commit was lost
    assert snapshots() == 1


def test_many_workers_claim_each_job_once(database: Database) -> None:
    expected = {queued_job(database) for _ in range(12)}
    claimed: list[str] = []

    def work(number: int) -> None:
        facts = WorkerFacts(id=f"worker-{number}", memory_bytes=1 << 34)
        while (claim := claim_one(database, facts)) is not None:
            claimed.append(claim.job_id)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # SKIP LOCKED may let a worker see nothing while another holds the row: look once more
    work(9)
    assert sorted(claimed) == sorted(expected)


def test_claims_go_by_priority_then_age_and_prefer_a_resident_base(database: Database) -> None:
    old, urgent = queued_job(database), queued_job(database, priority=5)
    resident = queued_job(database)
    with database.begin() as session:
        session.execute(update(Job).where(Job.id == resident).values(base_model="warm"))
    facts = WorkerFacts(id="w", memory_bytes=1, resident_base="warm")
    order = [claim.job_id for _ in range(3) if (claim := claim_one(database, facts))]
    assert order == [urgent, resident, old]


def test_a_resident_base_never_starves_an_older_job(database: Database) -> None:
    old, resident = queued_job(database), queued_job(database)
    with database.begin() as session:
        session.execute(update(Job).where(Job.id == resident).values(base_model="warm"))
        session.execute(update(Job).where(Job.id == old).values(created_at=db_now() - claims.STARVE_S - 1))
    claim = claim_one(database, WorkerFacts(id="w", memory_bytes=1, resident_base="warm"))
    assert claim is not None
    assert claim.job_id == old


def test_a_job_waits_for_a_worker_with_its_label_and_memory(database: Database) -> None:
    job_id = queued_job(database, label="a100")
    with database.begin() as session:
        session.execute(update(Job).where(Job.id == job_id).values(required_bytes=100))
    assert claim_one(database, WorkerFacts(id="w", memory_bytes=200)) is None
    assert claim_one(database, WorkerFacts(id="w", memory_bytes=99, labels=("a100",))) is None
    assert claim_one(database, WorkerFacts(id="w", memory_bytes=100, labels=("x", "a100"))) is not None


def test_every_write_of_a_lost_attempt_is_refused(database: Database) -> None:
    job_id = queued_job(database)
    first = claim_one(database)
    assert first is not None
    with database.begin() as session:
        assert losses.end_claims_of(session, WORKER.id) == 1
    second = claim_one(database)
    assert second is not None
    assert second.attempt == first.attempt + 1
    events = event_seqs(database, job_id)
    with database.begin() as session:
        assert first.beat(session, 60) is None
        assert claims.report(session, first, [NewEvent("late")], reported_step=9) is None
        assert claims.fail(session, first, code="x", message="late") is False
        assert claims.stop(session, first, "cancelled") is False
        assert losses.lose(session, first, "late") is False
    assert event_seqs(database, job_id) == events
    assert job_of(database, job_id).status == JobStatus.RUNNING
    with database.begin() as session:
        assert second.beat(session, 60) is not None


def test_a_preparation_that_was_lost_writes_nothing_more(database: Database) -> None:
    """Nobody has claimed it since: status and attempt are still those of the lost claim."""
    with database.begin() as session:
        job_id = add_job(session).id
        claim = claims.claim_preparation(session, "prepare", 60)
    assert claim is not None
    with database.begin() as session:
        session.execute(update(Job).where(Job.id == job_id).values(lease_until=db_now() - 1))
        assert losses.end_expired(session) == 1
    with database.begin() as session:
        assert claim.beat(session, 60) is None
        assert not losses.lose(session, claim, "late")
        assert not claims.fail(session, claim, code="x", message="late")
        again = claims.claim_preparation(session, "other", 60)
    assert again is not None
    assert (again.job_id, again.attempt) == (job_id, 2)


def test_an_expired_lease_is_lost_and_three_at_one_step_are_the_end(database: Database) -> None:
    job_id = queued_job(database)
    for attempt in (1, 2, 3):
        with database.begin() as session:
            session.execute(update(Job).where(Job.id == job_id).values(not_before=0.0))
        assert claim_one(database, lease_s=-1.0) is not None
        with database.begin() as session:
            assert losses.end_expired(session) == 1
        job = job_of(database, job_id)
        assert job.attempt == attempt
        assert job.status == (JobStatus.FAILED if attempt == 3 else JobStatus.QUEUED)
    assert job.error is not None
    assert job.error["code"] == "worker_lost_repeatedly"
    assert event_seqs(database, job_id) == list(range(1, job.event_seq + 1))


def test_outages_wait_longer_each_time_and_are_never_the_jobs_end(database: Database) -> None:
    job_id = queued_job(database)
    waits: list[float] = []
    for _ in range(7):
        claim = claim_one(database)
        assert claim is not None
        with database.begin() as session:
            assert losses.lose(session, claim, "the storage is away", is_outage=True)
            waits.append(session.scalar(select(Job.not_before - db_now()).where(Job.id == job_id)) or 0.0)
            session.execute(update(Job).where(Job.id == job_id).values(not_before=0.0))
    assert [round(wait, -1) for wait in waits[2:]] == [20, 40, 40, 40, 40]
    job = job_of(database, job_id)
    assert (job.status, job.losses, job.attempts_lost) == (JobStatus.QUEUED, 0, 7)
    assert event_seqs(database, job_id) == list(range(1, job.event_seq + 1))


def test_an_outage_does_not_hide_the_losses_before_it(database: Database) -> None:
    job_id = queued_job(database)
    for is_outage in (False, True, False, True, False):
        with database.begin() as session:
            session.execute(update(Job).where(Job.id == job_id).values(not_before=0.0))
        claim = claim_one(database)
        assert claim is not None
        with database.begin() as session:
            assert losses.lose(session, claim, "as it may be", is_outage=is_outage)
    assert job_of(database, job_id).status == JobStatus.FAILED


def test_progress_between_losses_starts_the_count_again(database: Database) -> None:
    job_id = queued_job(database)
    for step in range(5):
        claim = claim_one(database)
        assert claim is not None
        with database.begin() as session:
            claims.report(session, claim, snapshot_step=step + 1)
            assert losses.lose(session, claim, "the engine crashed")
            session.execute(update(Job).where(Job.id == job_id).values(not_before=0.0))
    assert job_of(database, job_id).status == JobStatus.QUEUED
    assert job_of(database, job_id).losses == 1


@pytest.mark.parametrize("status", TERMINAL)
def test_the_database_itself_keeps_a_finished_job_finished(database: Database, status: JobStatus) -> None:
    job_id = queued_job(database)
    assert claim_one(database) is not None
    with database.begin() as session:
        assert jobs.move(session, job_id, status, []) is not None
    for other in JobStatus:
        if other == status:
            continue
        with pytest.raises(DatabaseError, match="a finished job is final"), database.begin() as session:
            session.execute(text("UPDATE jobs SET status = :to WHERE id = :id"), {"to": other, "id": job_id})


def test_moves_follow_the_table_and_no_other_way(database: Database) -> None:
    with database.begin() as session:
        job_id = add_job(session).id
    for source in JobStatus:
        if source in TERMINAL:
            continue
        for target in JobStatus:
            with database.begin() as session:
                session.execute(update(Job).where(Job.id == job_id).values(status=source))
                moved = jobs.move(session, job_id, target, [NewEvent("x")]) is not None
                session.rollback()
            assert moved == (target in TRANSITIONS[source]), (source, target)


def test_cancel_pause_and_resume(database: Database) -> None:
    queued, running, held = queued_job(database), queued_job(database, priority=1), queued_job(database)
    claim = claim_one(database)
    assert claim is not None
    assert claim.job_id == running
    with database.begin() as session:
        assert jobs.cancel(session, "proj_one", queued).status == JobStatus.CANCELLED
        assert jobs.cancel(session, "proj_one", queued).status == JobStatus.CANCELLED
        assert jobs.cancel(session, "proj_one", running).status == JobStatus.RUNNING
        assert jobs.pause(session, "proj_one", held).status == JobStatus.PAUSED
        assert jobs.resume(session, "proj_one", held).status == JobStatus.QUEUED
        with pytest.raises(AttuneError, match="only a queued or running job can be paused"):
            jobs.pause(session, "proj_one", queued)
        with pytest.raises(NotFound, match=f"Could not find fine tune: {held}"):
            jobs.cancel(session, "proj_two", held)
    with database.begin() as session:
        flags = claim.beat(session, 60)
    assert flags is not None
    assert flags.cancel
    with database.begin() as session:
        assert claims.stop(session, claim, "cancelled")
    assert job_of(database, running).finished_at is not None


def test_a_cancelled_job_whose_worker_is_lost_is_not_tried_again(database: Database) -> None:
    job_id = queued_job(database)
    assert claim_one(database, lease_s=-1.0) is not None
    with database.begin() as session:
        jobs.cancel(session, "proj_one", job_id)
        losses.end_expired(session)
    assert job_of(database, job_id).status == JobStatus.CANCELLED


def test_event_numbers_have_no_gaps_under_concurrent_writers(database: Database) -> None:
    job_id = queued_job(database)
    claim = claim_one(database)
    assert claim is not None

    def write() -> None:
        for _ in range(10):
            with database.begin() as session:
                claims.report(session, claim, [NewEvent("a"), NewEvent("b")])

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert event_seqs(database, job_id) == list(range(1, job_of(database, job_id).event_seq + 1))


def test_a_failed_transaction_leaves_no_event_behind(database: Database) -> None:
    job_id = queued_job(database)
    claim = claim_one(database)
    assert claim is not None
    before = event_seqs(database, job_id)

    def write_and_break() -> None:
        with database.begin() as session:
            claims.report(session, claim, [NewEvent("never")])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_and_break()
    assert event_seqs(database, job_id) == before


def test_the_longest_duration_counts_training_over_all_attempts(database: Database) -> None:
    job_id = queued_job(database, max_duration_s=100.0)
    claim = claim_one(database)
    assert claim is not None
    with database.begin() as session:
        flags = claim.beat(session, 60)
        assert flags is not None
        assert not flags.over_time
        session.execute(update(Job).where(Job.id == job_id).values(spent_s=101.0))
        flags = claim.beat(session, 60)
    assert flags is not None
    assert flags.over_time


def test_pages_are_newest_first_and_survive_new_rows(database: Database) -> None:
    made = [queued_job(database) for _ in range(5)]
    with database.begin() as session:
        first, more = jobs.page(session, "proj_one", after=None, limit=2)
    assert more
    queued_job(database)
    with database.begin() as session:
        second, _ = jobs.page(session, "proj_one", after=first[-1], limit=2)
        third, more = jobs.page(session, "proj_one", after=second[-1], limit=2)
        assert jobs.page(session, "proj_two", after=None, limit=10) == ([], False)
    assert [*first, *second, *third] == made[::-1]
    assert not more


def test_a_holder_that_lost_its_lease_learns_it_and_one_that_settled_does_not(database: Database) -> None:
    queued_job(database)
    claim = claim_one(database, lease_s=2.0)
    assert claim is not None
    told = threading.Event()
    with Holding(database, claim, lease_s=2.0, beat_s=0.1, on_lost=told.set) as holding:
        time.sleep(0.5)
        assert not holding.lost.is_set()
        with database.begin() as session:
            losses.end_claims_of(session, WORKER.id)
        assert told.wait(5.0)
    claim = claim_one(database)
    assert claim is not None
    with Holding(database, claim, lease_s=2.0, beat_s=0.05) as holding:
        holding.settle()
        with database.begin() as session:
            assert claims.fail(session, claim, code="x", message="y")
        time.sleep(0.3)
        assert not holding.lost.is_set()
