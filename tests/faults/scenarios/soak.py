"""F37: two web processes at once, so two of every janitor and relay, under every kind of fault for minutes."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import openai
import psutil
import redis
from openai import OpenAI

from tests.faults.history import Intent
from tests.faults.proxy import Mode
from tests.faults.rig import Rig
from tests.faults.scenarios.listed import Outcome, cancel, scenario

SOAK_S = 15.0  # for each of the usual times: 5 minutes in the normal run
TENANTS = 8
PAUSE_S = (2.0, 6.0)  # between two faults
THINK_S = (0.5, 3.0)  # of a tenant, between two jobs
CANCELLED = 0.1  # share of the jobs
OUTAGE_S = 3.0
GROWN_BYTES = 96 * 1024 * 1024  # of the web process that nobody harms
GROWN_FILES = 40


@scenario("F37", "a soak of two web processes and eight tenants")
def soak(rig: Rig, times: int) -> Outcome:
    process = rig.start_twin()
    intents: list[Intent] = []
    over = threading.Event()
    keys = [rig.tenant(f"soak-{rig.kind}-{number}") for number in range(TENANTS)]
    tenants = [threading.Thread(target=_live, args=(rig, rig.client(key=key), intents, over)) for key in keys]
    for tenant in tenants:
        tenant.start()
    deadline = time.monotonic() + SOAK_S * times
    size = None
    landed = 0
    faults = _faults(rig)
    while time.monotonic() < deadline:
        time.sleep(random.uniform(*PAUSE_S))
        if size is None:
            size = (process.memory_info().rss, process.num_fds())  # once it is warm
        landed += random.choice(faults)()
    over.set()
    for tenant in tenants:
        tenant.join()
    rig.until_ready()
    recovery_s = rig.until_ended(intents)
    assert size is not None
    assert rig.twin.deaths == 0, "the web process that nobody harmed has died"
    grown = process.memory_info().rss - size[0], process.num_fds() - size[1]
    told = f"the web process that nobody harmed grew by {grown[0] >> 20} MiB and {grown[1]} descriptors"
    print(f"F37: {len(intents)} jobs, {landed} faults; {told}")
    assert grown[0] < GROWN_BYTES, told
    assert grown[1] < GROWN_FILES, told
    rig.twin.stop()
    return Outcome(landed, recovery_s)


def _live(rig: Rig, client: OpenAI, intents: list[Intent], over: threading.Event) -> None:
    """A tenant: job after job, some of them cancelled."""
    while not over.wait(random.uniform(*THINK_S)):
        with suppress(openai.APIError):
            intent = rig.create(rig.upload(client=client), random.choice((6, 12, 30)), client)
            intents.append(intent)
            if random.random() < CANCELLED:
                time.sleep(random.random())
                cancel(rig, intent)


def _faults(rig: Rig) -> list[Callable[[], int]]:
    """Each does its harm once, mends it, and says how often it landed."""

    def kill_worker() -> int:
        random.choice(rig.workers).kill()
        return 1

    def kill_engine() -> int:
        found = rig.engines(random.choice(rig.workers))
        for process in found:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        return len(found)

    def end_worker() -> int:
        random.choice(rig.workers).signal(signal.SIGTERM)
        return 1

    def kill_web() -> int:
        rig.web.kill()
        return 1

    def outage() -> int:
        proxy = rig.proxies[random.choice(list(rig.proxies))]
        before = proxy.seen.hit
        with proxy.being(random.choice((Mode.REFUSE, Mode.CUT_ANSWER))):
            time.sleep(OUTAGE_S)
        return proxy.seen.hit - before

    def spoil() -> int:
        assert rig.store is not None
        before = rig.store.hits
        with rig.store.answering(random.choice(("slow_down", "corrupted", "truncated")), 0.2):
            time.sleep(OUTAGE_S)
        return rig.store.hits - before

    def flush() -> int:
        assert rig.redis is not None
        with redis.Redis.from_url(rig.redis.url()) as server:
            server.flushall()
        return 1

    def crash_postgres() -> int:
        rig.servers["postgres"].end(signal.SIGQUIT)
        rig.servers["postgres"].start()
        return 1

    def end_connections() -> int:
        assert rig.postgres is not None
        with rig.postgres.connect() as connection:
            return len(
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
                    "AND backend_type = 'client backend'"
                ).fetchall()
            )

    everywhere = [kill_worker, kill_engine, end_worker, kill_web]
    return (
        [*everywhere, outage, spoil, flush, crash_postgres, end_connections] if rig.kind == "services" else everywhere
    )
