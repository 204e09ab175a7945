"""F1 to F9 but F4: workers and engines that die, stand still, are told to end, or have another clock."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil

from core.models import Job
from tests.faults.history import Intent
from tests.faults.parts import Part
from tests.faults.proxy import Mode
from tests.faults.rig import LEASE_S, Rig
from tests.faults.scenarios.listed import SERVICES, NotCovered, Outcome, harm_running, scenario

CLOCK = Path(__file__).parent.parent / "clock.c"
HOUR_S = 3600


@scenario("F1", "kill -9 of the worker")
def kill_worker(rig: Rig, times: int) -> Outcome:
    return harm_running(rig, times, lambda part, _: part.kill())


def _kill_engines(rig: Rig, part: Part) -> None:
    for process in rig.engines(part):
        with suppress(psutil.NoSuchProcess):
            process.kill()


@scenario("F2", "kill -9 of the engine")
def kill_engine(rig: Rig, times: int) -> Outcome:
    return harm_running(rig, times, lambda part, _: _kill_engines(rig, part))


@scenario("F3", "kill -9 of worker, engine and broker at once", share=0.5)
def kill_both(rig: Rig, times: int) -> Outcome:
    """Redis comes back empty; the file broker loses every message."""

    def harm(part: Part, _: Intent) -> None:
        _kill_engines(rig, part)
        part.kill()
        if rig.kind == "services":
            rig.servers["redis"].end()
            rig.servers["redis"].start()
        else:
            for message in (rig.data / "broker" / "messages").iterdir():
                message.unlink(missing_ok=True)

    return harm_running(rig, times, harm)


@scenario("F5", "SIGTERM to the worker")
def term_worker(rig: Rig, times: int) -> Outcome:
    return harm_running(rig, times, lambda part, _: part.signal(signal.SIGTERM))


@scenario("F6", "SIGTERM, then SIGKILL within the grace")
def term_then_kill(rig: Rig, times: int) -> Outcome:
    def harm(part: Part, _: Intent) -> None:
        part.signal(signal.SIGTERM)
        time.sleep(random.random() * 0.5)
        part.kill()

    return harm_running(rig, times, harm)


@scenario("F7", "the worker stands still for longer than its lease, then goes on", share=0.5)
def zombie(rig: Rig, times: int) -> Outcome:
    def harm(part: Part, _: Intent) -> None:
        part.signal(signal.SIGSTOP)
        try:
            time.sleep(LEASE_S + 2)
        finally:
            part.signal(signal.SIGCONT)

    return harm_running(rig, times, harm, steps=200)


@scenario(
    "F8",
    "a hole between the workers and the database for longer than a lease",
    SERVICES,
    share=0.5,
    why_not="no network lies before SQLite",
)
def black_hole(rig: Rig, times: int) -> Outcome:
    def harm(_: Part, __: Intent) -> None:
        with rig.proxies["postgres"].being(Mode.SWALLOW):
            time.sleep(LEASE_S + 2)

    return harm_running(rig, times, harm, steps=200)


@scenario(
    "F9", "a worker's clock is an hour off", SERVICES, share=0.5, why_not="SQLite's clock is that of its one machine"
)
def other_clock(rig: Rig, times: int) -> Outcome:
    """By a library that is loaded before all others; engines are started without it."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise NotCovered("no C compiler, to make the library that shifts one process's clock")
    library = rig.folder / "clock.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, CLOCK], check=True)
    part = rig.workers[0]
    landed, recovery_s = 0, 0.0
    for turn in range(times):
        part.start_anew({"LD_PRELOAD": str(library), "CLOCK_OFFSET_S": str(HOUR_S if turn % 2 else -HOUR_S)})
        assert part.process is not None
        rig.until_ready()
        assert str(library) in Path(f"/proc/{part.process.pid}/maps").read_text()
        intents = [rig.create(rig.upload(), 60) for _ in range(3)]
        recovery_s = max(recovery_s, rig.until_ended(intents))
        names = [_worker_of(rig, intent) for intent in intents]
        landed += sum(name.endswith(part.name.removeprefix("worker")) for name in names)
    part.start_anew()
    rig.until_ready()
    return Outcome(landed, recovery_s)


def _worker_of(rig: Rig, intent: Intent) -> str:
    with rig.database() as database, database.read() as session:
        return session.get_one(Job, intent.job_id).worker_id or ""
