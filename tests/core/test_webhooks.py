"""The outbox moves with the job or not at all; an endpoint has one deliverer at a time, never a dead one for long."""

from __future__ import annotations

import time

import pytest
from sqlalchemy import select, update

from core.db import Database, db_now
from core.jobs import claims, jobs, losses
from core.jobs.claims import Claim
from core.models import TERMINAL, JobStatus
from core.webhooks import outbox, webhooks
from core.webhooks import queue as webhook_queue
from core.webhooks.models import WebhookDelivery, WebhookEndpoint, WebhookEvent
from core.webhooks.queue import EndpointClaim, Outcome
from tests.core.rows import WORKER, add_file, add_job, add_project, queued_job

OK = Outcome(at=1.0, seconds=0.1, status_code=200, error=None)
BROKEN = Outcome(at=1.0, seconds=0.1, status_code=None, error="away")


@pytest.fixture
def database(database: Database) -> Database:
    """With a project and a file."""
    with database.begin() as session:
        add_project(session)
        add_file(session)
    return database


def told(database: Database, job_id: str) -> list[tuple[str, str, int]]:
    with database.read() as session:
        query = select(WebhookEvent).where(WebhookEvent.object_id == job_id).order_by(WebhookEvent.created_at)
        return [(row.type.rsplit(".", 1)[-1], row.status, row.seq) for row in session.scalars(query)]


def claimed_job(database: Database) -> Claim:
    queued_job(database)
    with database.begin() as session:
        claim = claims.claim_training(session, WORKER, 60)
    assert claim is not None
    return claim


def test_every_way_a_job_ends_is_told_once(database: Database) -> None:
    ends = {
        "failed": lambda session, claim: claims.fail(session, claim, code="x", message="y"),
        "cancelled": lambda session, claim: claims.stop(session, claim, "cancelled"),
        "paused": lambda session, claim: claims.stop(session, claim, "paused"),
    }
    for end, write in ends.items():
        claim = claimed_job(database)
        for expected in (True, False):  # the second is fenced, and tells nothing
            with database.begin() as session:
                assert write(session, claim) is expected
        assert told(database, claim.job_id) == [("running", "running", 3), (end, end, 4)]
    lost = claimed_job(database)
    for _ in range(losses.MAX_LOSSES):
        with database.begin() as session:
            assert losses.lose(session, lost, "gone")
            session.execute(update(jobs.Job).where(jobs.Job.id == lost.job_id).values(not_before=0.0))
        with database.begin() as session:
            lost = claims.claim_training(session, WORKER, 60) or lost
    assert [kind for kind, _, _ in told(database, lost.job_id)] == ["running"] * losses.MAX_LOSSES + ["failed"]
    with database.begin() as session:
        job = add_job(session)
        assert jobs.cancel(session, "proj_one", job.id).status == JobStatus.CANCELLED
        jobs.cancel(session, "proj_one", job.id)
    assert told(database, job.id) == [("cancelled", "cancelled", 3)]
    assert {f"fine_tuning.job.{status}" for status in TERMINAL} <= set(outbox.EVENT_TYPES)


def test_what_is_rolled_back_was_never_told(database: Database) -> None:
    claim = claimed_job(database)

    def fail_and_break() -> None:
        with database.begin() as session:
            assert claims.fail(session, claim, code="x", message="y")
            session.flush()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_and_break()
    assert [kind for kind, _, _ in told(database, claim.job_id)] == ["running"]


def deliverable(database: Database, count: int = 1) -> str:
    """An endpoint with so many due deliveries."""
    with database.begin() as session:
        kinds = ["fine_tuning.job.cancelled"]
        endpoint = webhooks.create(session, "proj_one", name="x", url="https://example.com/", event_types=kinds)
        session.flush()
    with database.begin() as session:
        for _ in range(count):
            jobs.cancel(session, "proj_one", add_job(session).id)
    with database.begin() as session:
        webhook_queue.spread(session)
    return endpoint.id


def claim_endpoint(database: Database, limit: int = 4, failing: int = 4) -> list[EndpointClaim]:
    with database.begin() as session:
        return webhook_queue.claim(session, limit, failing)


def test_an_event_that_nobody_asked_for_leaves_no_row(database: Database) -> None:
    endpoint_id = deliverable(database)
    claimed_job(database)  # "running", which this endpoint does not want
    with database.begin() as session:
        assert webhook_queue.spread(session) == 0
    with database.begin() as session:
        jobs.cancel(session, "proj_one", add_job(session).id)
        webhooks.change(session, "proj_one", endpoint_id, enabled=False)
    with database.begin() as session:
        assert webhook_queue.spread(session) == 0
        assert len(session.scalars(select(WebhookEvent)).all()) == 1
        assert session.scalars(select(WebhookDelivery.next_at)).all() == [None]  # given up with the endpoint


def test_a_dead_deliverer_loses_its_endpoint_and_cannot_settle(database: Database) -> None:
    endpoint_id = deliverable(database)
    [dead] = claim_endpoint(database)
    assert claim_endpoint(database) == []
    with database.begin() as session:
        [due] = webhook_queue.next_due(session, dead, 9)
        ended = WebhookEndpoint.id == endpoint_id
        session.execute(update(WebhookEndpoint).where(ended).values(claimed_until=db_now() - 1))
    [alive] = claim_endpoint(database)
    with database.begin() as session:
        assert not webhook_queue.settle(session, dead, [(due, OK)])
        webhook_queue.release(session, dead)
        assert webhook_queue.next_due(session, dead, 9) == []
    assert claim_endpoint(database) == []  # the dead one's release ended nothing
    with database.begin() as session:
        [again] = webhook_queue.next_due(session, alive, 9)
        assert again.event.id == due.event.id
        assert outbox.body_of(again.event) == outbox.body_of(due.event)
        assert webhook_queue.settle(session, alive, [(again, OK)])
        assert webhook_queue.next_due(session, alive, 9) == []
        webhook_queue.release(session, alive)
        assert not webhook_queue.has_work(session)


def lease_left_s(database: Database, endpoint_id: str) -> float:
    with database.read() as session:
        endpoint = session.get_one(WebhookEndpoint, endpoint_id)
        return endpoint.claimed_until - (session.scalar(select(db_now())) or 0.0)


def test_a_claim_lasts_while_its_process_renews_it_and_no_longer(database: Database) -> None:
    endpoint_id = deliverable(database)
    [mine] = claim_endpoint(database)
    with database.begin() as session:
        session.execute(update(WebhookEndpoint).values(claimed_until=db_now() + 1))
    with database.begin() as session:
        webhook_queue.renew(session, [mine])
    assert 1 < lease_left_s(database, endpoint_id) <= webhook_queue.LEASE_S
    with database.begin() as session:
        webhook_queue.release(session, mine)
        webhook_queue.renew(session, [mine])  # it was on its way when the delivery ended
    assert lease_left_s(database, endpoint_id) < 0
    assert len(claim_endpoint(database)) == 1


def test_failing_endpoints_rest_and_get_few_threads(database: Database) -> None:
    failing, healthy = deliverable(database, 3), deliverable(database, 1)
    begun = time.time()
    for claim in claim_endpoint(database):
        with database.begin() as session:
            due = webhook_queue.next_due(session, claim, 1)[0]
            if claim.endpoint.id == failing:
                assert not webhook_queue.settle(session, claim, [(due, BROKEN)])
            else:
                webhook_queue.release(session, claim)
    assert [claim.endpoint.id for claim in claim_endpoint(database)] == [healthy]
    with database.begin() as session:
        found = session.get_one(WebhookEndpoint, failing)
        assert found.failures == 1
        assert begun <= found.claimed_until - webhook_queue.REST_S + 0.01 <= time.time() + 0.02
        session.execute(update(WebhookEndpoint).values(claimed_until=0.0))
    assert [claim.endpoint.id for claim in claim_endpoint(database, 4, 0)] == [healthy]
    assert [claim.endpoint.id for claim in claim_endpoint(database, 4, 1)] == [failing]
