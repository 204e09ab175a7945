"""The life of jobs in any order: users by HTTP, workers by their claims, and claims that were lost but do not know it.

After every step the rows are looked at: each job moved along one edge of the graph or not at all, its events are
numbered without gaps, and what has ended stays as it is.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import httpx
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select, update

from core.db import db_now
from core.jobs import claims, losses
from core.jobs.claims import Claim
from core.jobs.jobs import NewEvent
from core.models import TERMINAL, TRANSITIONS, Job, JobEvent, JobStatus
from tests.api.place import RESOLVED, WORKER, Place

MAX_JOBS = 3
NUMBER = st.integers(0, 1000)
ENDS = {JobStatus.SUCCEEDED: "successfully completed", JobStatus.CANCELLED: "was cancelled"}


@dataclass
class Ran:
    """What all sequences came to. `steps`: how often each rule did something; `ended`: jobs by their last status."""

    sequences: int = 0
    steps: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)


def run(place: Place, sequences: int, steps: int = 50, *, shrink: bool = True) -> Ran:
    """Raises the first violation, with the shortest sequence that leads to it, or with `shrink` off with the first."""
    ran = Ran()
    run_state_machine_as_test(
        _machine(place, ran),
        settings=settings(
            max_examples=sequences,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            derandomize=True,
            phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
            suppress_health_check=list(HealthCheck),
        ),
    )
    return ran


def _machine(place: Place, ran: Ran) -> type[RuleBasedStateMachine]:
    tenant = place.tenant("life")
    file_id = tenant.upload()

    class JobLife(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.http: httpx.Client = tenant.http
            self.seen: dict[str, JobStatus] = {}
            self.held: dict[str, Claim] = {}
            self.lost: list[Claim] = []
            self.models: list[str] = []

        @initialize()
        def begin(self) -> None:
            ran.sequences += 1

        # By the order in which jobs were made, never by their ids: those are drawn anew when a sequence is replayed
        def job(self, number: int) -> str:
            return list(self.seen)[number % len(self.seen)]

        def claim(self, number: int) -> Claim:
            held = [job_id for job_id in self.seen if job_id in self.held]
            return self.held[held[number % len(held)]]

        def did(self, name: str) -> None:
            ran.steps[name] += 1

        def release(self, claim: Claim) -> None:
            self.lost.append(self.held.pop(claim.job_id))

        # A user

        @precondition(lambda self: len(self.seen) < MAX_JOBS)
        @rule()
        def create(self) -> None:
            job_id = tenant.job(training_file=file_id)
            self.seen[job_id] = JobStatus.VALIDATING_FILES
            self.did("create")

        @precondition(lambda self: self.seen)
        @rule(number=NUMBER, verb=st.sampled_from(("pause", "resume", "cancel")))
        def ask(self, number: int, verb: str) -> None:
            job_id = self.job(number)
            before = self.seen[job_id]
            answer = self.http.post(f"/v1/fine_tuning/jobs/{job_id}/{verb}")
            allowed = {
                "cancel": (JobStatus.VALIDATING_FILES, JobStatus.QUEUED, JobStatus.PAUSED, JobStatus.RUNNING,
                           JobStatus.CANCELLED),
                "pause": (JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.PAUSED),
                "resume": (JobStatus.PAUSED, JobStatus.QUEUED, JobStatus.RUNNING),
            }[verb]  # fmt: skip
            assert answer.status_code == (200 if before in allowed else 400), (verb, before, answer.text)
            self.did(verb)
            if before not in TERMINAL and self.now(job_id) not in TERMINAL:
                self.keep_file()

        def keep_file(self) -> None:
            """It cannot go while an unfinished job needs it."""
            answer = self.http.delete(f"/v1/files/{file_id}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "file_in_use")
            self.did("delete")

        def now(self, job_id: str) -> str:
            with place.database.read() as session:
                return session.scalars(select(Job.status).where(Job.id == job_id)).one()

        @precondition(lambda self: self.models)
        @rule()
        def delete_model(self) -> None:
            """What a finished job made may go, and the job stays finished."""
            path = f"/v1/models/{self.models.pop()}"
            assert self.http.delete(path).status_code == 200
            assert self.http.delete(path).status_code == 404
            self.did("delete model")

        # Those that work

        @precondition(lambda self: self.waiting(JobStatus.VALIDATING_FILES))
        @rule()
        def take_preparation(self) -> None:
            with place.database.begin() as session:
                self.took(claims.claim_preparation(session, "prepare", 600), JobStatus.VALIDATING_FILES)

        @precondition(lambda self: self.waiting(JobStatus.QUEUED))
        @rule()
        def take_training(self) -> None:
            with place.database.begin() as session:
                self.took(claims.claim_training(session, WORKER, 600), JobStatus.QUEUED)

        def waiting(self, status: JobStatus) -> list[str]:
            """What can be claimed, by the rows as they were seen last."""
            return [job_id for job_id, now in self.seen.items() if now == status and job_id not in self.held]

        def took(self, claim: Claim | None, status: JobStatus) -> None:
            assert claim is not None, "what waits was not given out"
            assert claim.job_id in self.waiting(status), "claimed twice"
            self.held[claim.job_id] = claim
            self.did("claim")

        @precondition(lambda self: self.held)
        @rule(number=NUMBER)
        def beat(self, number: int) -> None:
            claim = self.claim(number)
            with place.database.begin() as session:
                flags = claim.beat(session, 600)
            self.expect(claim, flags is not None)
            self.did("beat")

        @precondition(lambda self: self.held)
        @rule(number=NUMBER, count=st.integers(0, 3))
        def report(self, number: int, count: int) -> None:
            claim = self.claim(number)
            with place.database.begin() as session:
                flags = claims.report(session, claim, [NewEvent("step")] * count)
            self.expect(claim, flags is not None)
            self.did("report")

        @precondition(lambda self: self.held)
        @rule(number=NUMBER, expires=st.booleans())
        def lose(self, number: int, expires: bool) -> None:
            claim = self.claim(number)
            with place.database.begin() as session:
                if expires:
                    session.execute(update(Job).where(*claims.mine(claim)).values(lease_until=db_now() - 1))
                    losses.end_expired(session)
                else:
                    losses.lose(session, claim, "its engine died")
                # the wait before the next try is no part of what is tried here
                session.execute(update(Job).where(Job.id == claim.job_id).values(not_before=0.0))
            self.release(claim)
            self.did("lose")

        @precondition(lambda self: self.held)
        @rule(number=NUMBER)
        def finish(self, number: int) -> None:
            self.end(self.claim(number), "finish")

        @precondition(lambda self: self.held)
        @rule(number=NUMBER, how=st.sampled_from(("cancelled", "paused", "drained", "fail")))
        def stop(self, number: int, how: str) -> None:
            claim = self.claim(number)
            # what prepares is not stopped: it comes to an end by itself
            self.end(claim, "fail" if claim.job.status == JobStatus.VALIDATING_FILES else how)

        def end(self, claim: Claim, how: str) -> None:
            is_preparing = claim.job.status == JobStatus.VALIDATING_FILES
            expected = self.in_force(claim)
            with place.database.begin() as session:
                if how == "fail":
                    done = claims.fail(session, claim, code="x", message="The data is wrong")
                elif how in ("cancelled", "paused", "drained"):
                    done = claims.stop(session, claim, how)  # pyright: ignore[reportArgumentType]
                elif is_preparing:
                    done = self.prepared(session, claim)
                else:
                    done = None
            if done is None:
                done = self.succeeded(claim, expected)
            assert done == expected, (how, claim.job_id)
            self.release(claim)
            self.did(how)

        def prepared(self, session: object, claim: Claim) -> bool:
            return claims.prepared(
                session, claim, resolved=RESOLVED, reasons={}, plan={}, required_bytes=1, template_date="2026-01-01"  # pyright: ignore[reportArgumentType]
            )  # fmt: skip

        def succeeded(self, claim: Claim, expected: bool) -> bool:
            if not expected:
                with place.database.begin() as session:
                    return claim.beat(session, 600) is not None
            self.models.append(place.publish(claim, 9, final=True))
            return True

        @precondition(lambda self: self.lost)
        @rule(number=NUMBER)
        def late(self, number: int) -> None:
            """A worker that lost its claim writes all the same: nothing is taken."""
            claim = self.lost[number % len(self.lost)]
            with place.database.begin() as session:
                assert claim.beat(session, 600) is None
                assert claims.report(session, claim, [NewEvent("late")]) is None
                assert not claims.fail(session, claim, code="x", message="late")
                assert not claims.stop(session, claim, "drained")
                assert not losses.lose(session, claim, "late")
            self.did("late")

        def in_force(self, claim: Claim) -> bool:
            """By the rows as they were seen last: a cancel may have ended what is being prepared."""
            return self.seen[claim.job_id] == claim.job.status

        def expect(self, claim: Claim, was_taken: bool) -> None:
            assert was_taken == self.in_force(claim)
            if not was_taken:
                self.release(claim)

        # What has to hold

        @invariant()
        def moved_along_the_graph(self) -> None:
            with place.database.read() as session:
                rows = session.execute(select(Job.id, Job.status, Job.event_seq).where(Job.id.in_(self.seen))).all()
                events = session.execute(
                    select(JobEvent.job_id, JobEvent.seq, JobEvent.message)
                    .where(JobEvent.job_id.in_(self.seen))
                    .order_by(JobEvent.seq)
                ).all()
            assert len(rows) == len(self.seen)
            for job_id, status, last in rows:
                before, now = self.seen[job_id], JobStatus(status)
                assert now == before or now in TRANSITIONS[before], (before, now)
                self.seen[job_id] = now
                mine = [event for event in events if event.job_id == job_id]
                assert [event.seq for event in mine] == list(range(1, last + 1))
                final = sum(text in event.message for event in mine for text in ENDS.values())
                assert final == (now in ENDS), [event.message for event in mine]

        def teardown(self) -> None:
            """Leave nothing for the next sequence to claim."""
            for job_id, status in self.seen.items():
                if status not in TERMINAL:
                    assert self.http.post(f"/v1/fine_tuning/jobs/{job_id}/cancel").status_code == 200
            for claim in self.held.values():
                with place.database.begin() as session:
                    claims.stop(session, claim, "cancelled")
            with place.database.read() as session:
                rows = session.scalars(select(Job.status).where(Job.id.in_(self.seen))).all()
            assert all(status in TERMINAL for status in rows), rows
            ran.ended.update(rows)
            self.http.close()

    return JobLife
