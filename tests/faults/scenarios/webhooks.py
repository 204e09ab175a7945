"""F36: receivers that are down, answer wrongly, slowly, or not at all. Of the schedule's waits each is cut short by
setting the row's next try to now, as if the time had passed.
"""

from __future__ import annotations

import time
from http.server import BaseHTTPRequestHandler

from sqlalchemy import select, update

from core.webhooks.models import WebhookDelivery, WebhookEndpoint
from tests.api.receiver import Answer, reset, status
from tests.faults.history import Intent
from tests.faults.rig import Rig
from tests.faults.scenarios.listed import Outcome, scenario

SLOW_S = 40.0
TRIES = 5
GONE, SLOW = "gone", "slow"


def _slow(request: BaseHTTPRequestHandler) -> None:
    time.sleep(SLOW_S)
    status(204)(request)


ANSWERS: dict[str, Answer] = {
    "500": status(500),
    SLOW: _slow,
    "302": status(302, Location="/elsewhere"),
    "reset": reset,  # it has read the body, so it will see the event twice
    GONE: status(410),
}


@scenario("F36", "webhook receivers fail in every way, then are well again", share=0.25)
def receivers(rig: Rig, times: int) -> Outcome:
    landed, recovery_s = 0, 0.0
    for turn in range(times):
        paths = {f"/{name}-{rig.kind}-{turn}": answer for name, answer in ANSWERS.items()}
        endpoints = {path: rig.listen(path) for path in paths}
        rig.receiver.answers.update(paths)
        intents = [rig.create(rig.upload(), 6) for _ in range(2)]
        rig.until_ended(intents)
        for _ in range(TRIES):
            before = _tries(rig, endpoints)
            rig.until(lambda before=before, endpoints=endpoints: _tries(rig, endpoints) > before, "a try is made")
            _let_time_pass(rig, endpoints)
        begun = time.monotonic()
        for path in paths:
            if GONE not in path:
                del rig.receiver.answers[path]
        assert not rig.receiver.at("/elsewhere"), "a redirect was followed"
        for path, endpoint_id in endpoints.items():
            landed += _must_be_settled(rig, path, endpoint_id, intents, endpoints)
        recovery_s = max(recovery_s, time.monotonic() - begun)
        for endpoint_id in endpoints.values():
            rig.http().delete(f"/v1/webhook_endpoints/{endpoint_id}").raise_for_status()
    return Outcome(landed, recovery_s)


def _tries(rig: Rig, endpoints: dict[str, str]) -> int:
    with rig.database() as database, database.read() as session:
        rows = session.scalars(select(WebhookDelivery).where(WebhookDelivery.endpoint_id.in_(endpoints.values())))
        return sum(row.tries for row in rows)


def _let_time_pass(rig: Rig, endpoints: dict[str, str]) -> None:
    """No wait of the schedule, and no rest of an endpoint that nobody delivers to, is left."""
    with rig.database() as database, database.begin() as session:
        session.execute(
            update(WebhookDelivery)
            .where(WebhookDelivery.endpoint_id.in_(endpoints.values()), WebhookDelivery.next_at > time.time())
            .values(next_at=time.time())
        )
        resting = [endpoint_id for path, endpoint_id in endpoints.items() if SLOW not in path]  # it is being asked
        session.execute(
            update(WebhookEndpoint)
            .where(WebhookEndpoint.id.in_(resting), WebhookEndpoint.failures > 0)
            .values(claimed_until=0.0)
        )


def _must_be_settled(rig: Rig, path: str, endpoint_id: str, intents: list[Intent], all_of: dict[str, str]) -> int:
    """Every end has come under one id and with the same bytes; an endpoint that is gone is asked no more. How many
    tries had failed before."""

    def settled() -> bool:
        _let_time_pass(rig, all_of)
        with rig.database() as database, database.read() as session:
            endpoint = session.get_one(WebhookEndpoint, endpoint_id)
            rows = session.scalars(select(WebhookDelivery).where(WebhookDelivery.endpoint_id == endpoint_id)).all()
        if GONE in path:
            return endpoint.disabled_at is not None and all(row.next_at is None for row in rows)
        return len(rows) == len(intents) and all(row.delivered_at is not None for row in rows)

    rig.until(settled, f"the receiver at {path} is settled with")
    came: dict[str, set[bytes]] = {}
    for received in rig.receiver.at(path):
        came.setdefault(received.headers["webhook-id"], set()).add(received.body)
    assert all(len(bodies) == 1 for bodies in came.values()), f"{path}: one id came with different bytes"
    if GONE not in path:
        assert len(came) == len(intents), f"{path}: {len(came)} ids for {len(intents)} ends"
        return len(rig.receiver.at(path)) - len(intents)
    return len(rig.receiver.at(path))
