"""F14 to F17: Postgres crashes, ends connections, loses answers, or takes no writes; SQLite's disk is full."""

from __future__ import annotations

import random
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress

import openai
from sqlalchemy import func, select

from core.models import Job
from tests.faults.history import Intent
from tests.faults.proxy import Mode
from tests.faults.rig import Rig
from tests.faults.scenarios.listed import SERVICES, NotCovered, Outcome, create_for, running, scenario

AWAY_S = 5.0
NO_SERVER = "SQLite is no server"
NO_DISK = "root is needed to mount a disk small enough to fill"


@scenario("F14", "Postgres is ended at once and started again under load", SERVICES, share=0.25, why_not=NO_SERVER)
def postgres_crashes(rig: Rig, times: int) -> Outcome:
    landed, recovery_s = 0, 0.0
    for _ in range(times):
        intents = [running(rig, 120)]
        file_id = rig.upload()
        rig.servers["postgres"].end(signal.SIGQUIT)  # "immediate": it recovers from its log
        try:
            made, refused = create_for(rig, AWAY_S, file_id)
        finally:
            rig.servers["postgres"].start()
        _must_be_clear(refused)
        landed += len(refused)
        recovery_s = max(recovery_s, rig.until_ended([*intents, *made]))
    return Outcome(landed, recovery_s)


def _must_be_clear(refused: list[str]) -> None:
    """A part that is away is a 503 that says when to come again."""
    wrong = [text for text in refused if not text.startswith("503 ") or text.endswith("None")]
    assert not wrong, f"answers while the database is away: {wrong}"


@scenario("F15", "Postgres ends connections at random", SERVICES, why_not=NO_SERVER)
def terminated(rig: Rig, times: int) -> Outcome:
    assert rig.postgres is not None
    intents = [rig.create(rig.upload(), 60) for _ in range(4)]
    landed = 0
    with rig.postgres.connect() as connection:
        for _ in range(times * 10):
            ended = connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
                "AND backend_type = 'client backend' ORDER BY random() LIMIT 1"
            ).fetchall()
            landed += len(ended)
            time.sleep(0.1)
    return Outcome(landed, rig.until_ended(intents))


@scenario("F16", "the answer to a commit is lost", SERVICES, why_not=NO_SERVER)
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


@scenario("F17", "the database takes no writes: read-only, or its disk is full", share=0.2)
def no_writes(rig: Rig, times: int) -> Outcome:
    landed, recovery_s = 0, 0.0
    for turn in range(max(times, 2) if rig.kind == "services" else times):
        intents = [running(rig, 120)]
        file_id = rig.upload()
        with _read_only(rig) if rig.kind == "services" and turn % 2 else _full(rig):
            before = _rows(rig)
            made, refused = create_for(rig, AWAY_S, file_id, every_s=0.1)
            assert _rows(rig) - before <= len(made), "a refused create left a row"
        _must_be_clear(refused)
        landed += len(refused)
        recovery_s = max(recovery_s, rig.until_ended([*intents, *made]))
    return Outcome(landed, recovery_s)


def _rows(rig: Rig) -> int:
    with rig.database() as database, database.read() as session:
        return session.scalar(select(func.count()).select_from(Job)) or 0


def _full(rig: Rig) -> AbstractContextManager[None]:
    disk = rig.tables if rig.kind == "services" else rig.disk
    if disk is None:
        raise NotCovered(NO_DISK)
    if rig.kind == "embedded":  # its log's file is written over from the start, and would have room for a while
        with closing(sqlite3.connect(rig.data / "attune.db", timeout=30)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return disk.full()


@contextmanager
def _read_only(rig: Rig) -> Iterator[None]:
    server = rig.postgres
    assert server is not None

    def let(writes: bool) -> None:
        with server.connect() as connection:
            connection.execute("SET default_transaction_read_only = off")
            connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {'off' if writes else 'on'}")
            connection.execute("SELECT pg_reload_conf()")
        time.sleep(0.2)  # until its processes have read it

    let(False)
    try:
        yield
    finally:
        let(True)
