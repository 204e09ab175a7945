"""F10 to F13: the doorbell rings too often, too rarely, or not at all."""

from __future__ import annotations

import redis

from core.broker.doorbell import Doorbell
from tests.faults.history import ENDED, Intent
from tests.faults.rig import Rig
from tests.faults.scenarios.listed import SERVICES, Outcome, create_for, running, scenario

AWAY_S = 5.0
QUEUED = 5  # jobs, at each flush
NO_REDIS = "the file broker is no server; F3 empties it"


@scenario("F10", "the same ring, ten times")
def rings(rig: Rig, times: int) -> Outcome:
    intents: list[Intent] = []
    landed = 0
    with rig.database() as database:
        doorbell = Doorbell(rig.direct, database)
        names = [row["id"] for row in rig.http().get("/v1/attune/workers").json()["data"]]
        for _ in range(times):
            intents.append(rig.create(rig.upload(), 12))
            landed += sum(doorbell.ring(name) for name in names for _ in range(10))
    return Outcome(landed, rig.until_ended(intents))


@scenario("F11", "Redis is flushed under a queue", SERVICES, why_not=NO_REDIS)
def flush(rig: Rig, times: int) -> Outcome:
    assert rig.redis is not None
    landed = 0
    intents: list[Intent] = []
    file_id = rig.upload()
    with redis.Redis.from_url(rig.redis.url()) as server:
        for _ in range(times):
            intents += [rig.create(file_id, 30) for _ in range(QUEUED)]
            server.flushall()
            landed += any(rig.status(intent) not in ENDED for intent in intents[-QUEUED:])
    return Outcome(landed, rig.until_ended(intents))


@scenario("F12", "Redis is away, and comes back empty", SERVICES, share=0.25, why_not=NO_REDIS)
def redis_away(rig: Rig, times: int) -> Outcome:
    landed, recovery_s = 0, 0.0
    for _ in range(times):
        intents = [running(rig, 120)]
        file_id = rig.upload()
        rig.servers["redis"].end()
        try:
            made, refused = create_for(rig, AWAY_S, file_id)
        finally:
            rig.servers["redis"].start()
        assert not refused, f"creates without Redis: {refused}"
        landed += len(made)
        recovery_s = max(recovery_s, rig.until_ended([*intents, *made]))
    return Outcome(landed, recovery_s)


@scenario("F13", "Redis is full, or takes no writes", SERVICES, share=0.25, why_not=NO_REDIS)
def redis_full(rig: Rig, times: int) -> Outcome:
    """By its own means: no memory without eviction, and being a replica of nobody."""
    assert rig.redis is not None
    landed, recovery_s = 0, 0.0
    with redis.Redis.from_url(rig.redis.url()) as server:
        for turn in range(times):
            intents = [running(rig, 120)]
            file_id = rig.upload()
            if turn % 2:
                server.execute_command("REPLICAOF", "127.0.0.1", "1")
            else:
                server.config_set("maxmemory-policy", "noeviction")
                server.config_set("maxmemory", "1")
            try:
                made, refused = create_for(rig, AWAY_S, file_id)
                try:
                    server.set("probe", "1")
                except redis.ResponseError:
                    landed += len(made)
            finally:
                server.execute_command("REPLICAOF", "NO", "ONE")
                server.config_set("maxmemory", "0")
            assert not refused, f"creates with a Redis that takes nothing: {refused}"
            recovery_s = max(recovery_s, rig.until_ended([*intents, *made]))
    return Outcome(landed, recovery_s)
