"""The fault scenarios, by the numbers of the reference. Each says how many faults really landed.

A scenario creates its own jobs, does its harm, mends it, and waits until all jobs have ended; the invariants are
checked by the caller. `times` is how often the harm is done.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import openai
import redis
from sqlalchemy import select

from core.crash_points import POINTS
from core.models import Snapshot
from tests.faults.proxy import Mode
from tests.faults.rig import ENDED, LEASE_S, Intent, Part, Rig


@dataclass
class Outcome:
    """`landed`: faults that hit something in the middle; `recovery_s`: from the mending to the last end."""

    landed: int
    recovery_s: float


IN_WEB = (
    "upload",
    "create",
    "answer",
    "cancel",
    "prepare",
    "webhook",
)  # the crash points that it, or its child, passes
Scenario = Callable[[Rig, int], Outcome]
SCENARIOS: dict[str, tuple[str, Scenario]] = {}
NEEDS_SERVICES: set[str] = set()  # have no meaning over SQLite, a folder and the file broker


def scenario(number: str, title: str, *, services: bool = False) -> Callable[[Scenario], Scenario]:
    def add(function: Scenario) -> Scenario:
        SCENARIOS[number] = (title, function)
        if services:
            NEEDS_SERVICES.add(number)
        return function

    return add


def _busy(rig: Rig, intent: Intent) -> Part:
    """The worker that runs the job now."""
    workers = rig.http().get("/v1/attune/workers").json()["data"]
    name = next((row["id"] for row in workers if row["job"] == intent.job_id), None)
    if name is None:
        return random.choice(rig.workers)
    return next((part for part in rig.workers if name.endswith(part.name.removeprefix("worker"))), rig.workers[0])


def _running(rig: Rig, steps: int = 60) -> Intent:
    """A job that has taken a few steps."""
    intent = rig.create(rig.upload(), steps)
    target = random.randint(2, 20)
    rig.until(lambda: rig.step(intent) >= target or rig.status(intent) in ENDED, "a job takes steps")
    return intent


def _harm_running(rig: Rig, times: int, harm: Callable[[Part, Intent], None], steps: int = 60) -> Outcome:
    """Do `harm` to the worker of a running job, `times` times, each to a job of its own."""
    landed, recovery_s = 0, 0.0
    for _ in range(times):
        intent = _running(rig, steps)
        time.sleep(random.random() * 0.3)
        landed += rig.status(intent) == "running"
        harm(_busy(rig, intent), intent)
        recovery_s = max(recovery_s, rig.until_ended([intent]))
    return Outcome(landed, recovery_s)


@scenario("F1", "kill -9 of the worker")
def kill_worker(rig: Rig, times: int) -> Outcome:
    return _harm_running(rig, times, lambda part, _: part.kill())


@scenario("F2", "kill -9 of the engine")
def kill_engine(rig: Rig, times: int) -> Outcome:
    def harm(part: Part, _: Intent) -> None:
        for pid in rig.engines(part):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    return _harm_running(rig, times, harm)


@scenario("F4", "kill at each named point")
def kill_points(rig: Rig, times: int) -> Outcome:
    """The part that passes the point dies there, once; the client repeats what it has no answer to."""
    landed, recovery_s = 0, 0.0
    for name in POINTS:
        for passing in range(1, times + 1):
            flag = rig.folder / f"crash-{name}-{passing}"
            order = {"ATTUNE_CRASH_AT": f"{name}:{passing}:{flag}"}
            passing_parts = [rig.web] if name.startswith(IN_WEB) else rig.workers
            for part in passing_parts:
                part.start_anew(order)
            rig.until_ready()
            intents: list[Intent] = []
            for steps in (12, 60):
                with suppress(openai.APIError):
                    intents.append(rig.create(rig.upload(), steps))
            if name.startswith("cancel"):
                _cancel(rig, intents[-1])
            recovery_s = max(recovery_s, rig.until_ended(intents))
            landed += flag.exists()
    for part in rig.parts.values():
        part.start_anew()
    rig.until_ready()
    return Outcome(landed, recovery_s)


def _cancel(rig: Rig, intent: Intent) -> None:
    """Remembered once it is acknowledged; a job that has ended says so, and that is an answer too."""
    assert intent.job_id is not None
    intent.may_end = ("succeeded", "cancelled")
    try:
        job = rig.client().fine_tuning.jobs.cancel(intent.job_id)
        intent.cancelled = job.status == "cancelled"
    except openai.BadRequestError:
        pass  # it has ended already


@scenario("F5", "SIGTERM to the worker")
def term_worker(rig: Rig, times: int) -> Outcome:
    return _harm_running(rig, times, lambda part, _: part.signal(signal.SIGTERM))


@scenario("F6", "SIGTERM, then SIGKILL within the grace")
def term_then_kill(rig: Rig, times: int) -> Outcome:
    def harm(part: Part, _: Intent) -> None:
        part.signal(signal.SIGTERM)
        time.sleep(random.random() * 0.5)
        part.kill()

    return _harm_running(rig, times, harm)


@scenario("F7", "the worker stands still for longer than its lease, then goes on")
def zombie(rig: Rig, times: int) -> Outcome:
    def harm(part: Part, intent: Intent) -> None:
        part.signal(signal.SIGSTOP)
        try:
            time.sleep(LEASE_S + 2)
        finally:
            part.signal(signal.SIGCONT)

    return _harm_running(rig, times, harm, steps=200)


@scenario("F8", "one network hole between the workers and the database", services=True)
def black_hole(rig: Rig, times: int) -> Outcome:
    def harm(_: Part, __: Intent) -> None:
        with rig.proxies["postgres"].being(Mode.SWALLOW):
            time.sleep(LEASE_S + 2)

    return _harm_running(rig, times, harm, steps=200)


@scenario("F10", "the same ring, ten times")
def rings(rig: Rig, times: int) -> Outcome:
    from core.doorbell import Doorbell

    intents: list[Intent] = []
    landed = 0
    with rig.database() as database:
        doorbell = Doorbell(rig.direct, database)
        names = [row["id"] for row in rig.http().get("/v1/attune/workers").json()["data"]]
        for _ in range(times):
            intents.append(rig.create(rig.upload(), 12))
            landed += sum(doorbell.ring(name) for name in names for _ in range(10))
    return Outcome(landed, rig.until_ended(intents))


@scenario("F11", "Redis is flushed under a queue", services=True)
def flush(rig: Rig, times: int) -> Outcome:
    assert rig.redis is not None
    landed, intents = 0, [rig.create(rig.upload(), 12) for _ in range(10 * times)]
    with redis.Redis.from_url(rig.redis.url()) as server:
        for _ in range(times):
            landed += any(rig.status(intent) not in ENDED for intent in intents)
            server.flushall()
            time.sleep(0.5)
    return Outcome(landed, rig.until_ended(intents))


@scenario("F12", "Redis is away", services=True)
def redis_away(rig: Rig, times: int) -> Outcome:
    return _outage(rig, "redis", times)


def _outage(rig: Rig, part: str, times: int, mode: Mode = Mode.REFUSE, seconds: float = 5.0) -> Outcome:
    """Away for a while, with jobs running, and others asked for meanwhile."""
    landed, recovery_s = 0, 0.0
    for _ in range(times):
        intents = [_running(rig, 120)]
        file_id = rig.upload()
        before = rig.proxies[part].seen.hit
        with rig.proxies[part].being(mode):
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                with suppress(openai.APIError):
                    intents.append(rig.create(file_id, 12, rig.client(retries=0)))
                time.sleep(0.5)
        landed += rig.proxies[part].seen.hit - before
        recovery_s = max(recovery_s, rig.until_ended(intents))
    return Outcome(landed, recovery_s)


@scenario("F14", "Postgres refuses for a while", services=True)
def postgres_away(rig: Rig, times: int) -> Outcome:
    return _outage(rig, "postgres", times, seconds=3.0)


@scenario("F15", "Postgres ends connections at random", services=True)
def terminated(rig: Rig, times: int) -> Outcome:
    assert rig.postgres is not None
    intents = [rig.create(rig.upload(), 60) for _ in range(4)]
    landed = 0
    with rig.postgres.connect() as connection:
        connection.autocommit = True
        for _ in range(times * 10):
            ended = connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
                "AND backend_type = 'client backend' ORDER BY random() LIMIT 1"
            ).fetchall()
            landed += len(ended)
            time.sleep(0.1)
    return Outcome(landed, rig.until_ended(intents))


@scenario("F16", "the answer to a commit is lost", services=True)
def lost_commit(rig: Rig, times: int) -> Outcome:
    """The connection to the database is cut while creates are being answered; the client repeats them."""
    file_id = rig.upload()
    proxy = rig.proxies["postgres"]
    intents: list[Intent] = []
    before = proxy.seen.hit
    for _ in range(times):
        proxy.set(Mode.CUT_ANSWER)
        timer = threading.Timer(random.random() * 0.4, proxy.set, (Mode.PASS,))
        timer.start()
        with suppress(openai.APIError):
            intents.append(rig.create(file_id, 6))
        timer.join()
        proxy.set(Mode.PASS)
    return Outcome(proxy.seen.hit - before, rig.until_ended(intents))


@scenario("F18", "kill -9 of the web process under creates and uploads")
def kill_web(rig: Rig, times: int) -> Outcome:
    landed, recovery_s = 0, 0.0
    for _ in range(times):
        intents: list[Intent] = []
        timer = threading.Timer(random.random() * 0.3, rig.web.kill)
        deaths = rig.web.deaths
        timer.start()
        for _ in range(3):
            with suppress(openai.APIError):
                intents.append(rig.create(rig.upload(), 6))
        timer.join()
        rig.until_ready()
        landed += rig.web.deaths > deaths
        recovery_s = max(recovery_s, rig.until_ended(intents))
    return Outcome(landed, recovery_s)


@scenario("F20", "S3 is away during training", services=True)
def s3_away(rig: Rig, times: int) -> Outcome:
    return _outage(rig, "s3", times)


@scenario("F22", "S3 takes a put, and its answer is lost", services=True)
def s3_answers_lost(rig: Rig, times: int) -> Outcome:
    return _outage(rig, "s3", times, Mode.CUT_ANSWER, seconds=2.0)


@scenario("F24", "the newest snapshot has flipped bits")
def flipped(rig: Rig, times: int) -> Outcome:
    """Flip it in the folder store, then kill the worker: an older one, or the start, is gone on from."""
    landed, recovery_s = 0, 0.0
    for _ in range(times):
        intent = _running(rig, 100)
        with rig.database() as database, database.read() as session:
            newest = session.scalars(
                select(Snapshot).where(Snapshot.job_id == intent.job_id).order_by(Snapshot.step.desc())
            ).first()
        if newest is not None:
            path = Path(rig.data / "objects" / newest.storage_key)
            if path.is_file():
                content = bytearray(path.read_bytes())
                content[len(content) // 2] ^= 1
                path.write_bytes(content)
                landed += 1
        _busy(rig, intent).kill()
        recovery_s = max(recovery_s, rig.until_ended([intent]))
    return Outcome(landed, recovery_s)


def _doomed(rig: Rig, word: str, times: int, code: str) -> Outcome:
    """A job that cannot be done fails with its code, and a good one beside it succeeds."""
    landed, recovery_s = 0, 0.0
    for _ in range(times):
        bad, good = rig.create(rig.upload(word), 30), rig.create(rig.upload(), 12)
        bad.may_end = ("failed",)
        recovery_s = max(recovery_s, rig.until_ended([bad, good], 180))
        job = rig.client().fine_tuning.jobs.retrieve(bad.job_id or "")
        landed += job.status == "failed" and job.error is not None and job.error.code == code
        assert rig.status(good) == "succeeded"
    return Outcome(landed, recovery_s)


@scenario("F30", "out of memory at a step")
def out_of_memory(rig: Rig, times: int) -> Outcome:
    return _doomed(rig, "too large", times, "out_of_memory")


@scenario("F31", "a job that kills its engine at the same step every time")
def poison(rig: Rig, times: int) -> Outcome:
    return _doomed(rig, "poison", times, "worker_lost_repeatedly")


@scenario("F33", "the loss is not a number")
def not_a_number(rig: Rig, times: int) -> Outcome:
    return _doomed(rig, "not a number", times, "loss_not_finite")


@scenario("F34", "cancel races with the end")
def cancel_races(rig: Rig, times: int) -> Outcome:
    intents: list[Intent] = []
    for _ in range(5 * times):
        intent = rig.create(rig.upload(), 12)
        time.sleep(random.random())
        _cancel(rig, intent)
        intents.append(intent)
    recovery_s = rig.until_ended(intents)
    return Outcome(sum(rig.status(intent) == "cancelled" for intent in intents), recovery_s)


@scenario("F35", "a file is deleted while a job needs it")
def delete_in_use(rig: Rig, times: int) -> Outcome:
    landed = 0
    intents: list[Intent] = []
    for _ in range(times):
        file_id = rig.upload()
        intents.append(rig.create(file_id, 12))
        try:
            rig.client().files.delete(file_id)
            rig.history.deleted.append(file_id)
        except openai.BadRequestError:
            landed += 1
    return Outcome(landed, rig.until_ended(intents))
