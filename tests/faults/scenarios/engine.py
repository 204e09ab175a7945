"""F29 to F33: the engine has no memory, dies at the same step every time, hangs, or its loss is not a number."""

from __future__ import annotations

import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from tests.faults.history import Intent
from tests.faults.rig import Rig
from tests.faults.scenarios.listed import Outcome, scenario

MEMORY_BYTES = 1 << 30
LOOK_EVERY_S = 0.02
STALL_S = 2.0


def _doomed(rig: Rig, word: str, times: int, code: str) -> Outcome:
    """A job that cannot be done fails with its code, and a good one beside it succeeds."""
    landed, recovery_s = 0, 0.0
    for _ in range(times):
        bad, good = rig.create(rig.upload(word), 30), rig.create(rig.upload(), 12)
        recovery_s = max(recovery_s, _ended_with(rig, bad, code, good))
        landed += 1
    return Outcome(landed, recovery_s)


def _ended_with(rig: Rig, bad: Intent, code: str, good: Intent) -> float:
    bad.may_end = ("failed",)
    recovery_s = rig.until_ended([bad, good])
    error = rig.client().fine_tuning.jobs.retrieve(bad.job_id or "").error
    assert error is not None, f"{bad.job_id} did not fail with {code}"
    assert error.code == code, f"{bad.job_id} failed with {error.code}, not with {code}"
    assert rig.status(good) == "succeeded"
    return recovery_s


@scenario("F29", "the engine's address space ends at a step")
def no_memory(rig: Rig, times: int) -> Outcome:
    with _limited_engines(rig):
        return _doomed(rig, "host memory", times, "out_of_memory")


@contextmanager
def _limited_engines(rig: Rig) -> Iterator[None]:
    """By the kernel: each engine as soon as it runs, before it comes to the step that wants more."""
    over = threading.Event()

    def limit() -> None:
        while not over.wait(LOOK_EVERY_S):
            for part in rig.workers:
                for process in rig.engines(part):
                    with suppress(psutil.NoSuchProcess):
                        process.rlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))

    thread = threading.Thread(target=limit, name="limits", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        for part in rig.workers:  # the next scenario begins with engines that have all of it
            part.start_anew()
        rig.until_ready()


@scenario("F30", "out of memory on the device at a step")
def out_of_memory(rig: Rig, times: int) -> Outcome:
    return _doomed(rig, "too large", times, "out_of_memory")


@scenario("F31", "a job that kills its engine at the same step every time", share=0.25)
def poison(rig: Rig, times: int) -> Outcome:
    return _doomed(rig, "poison", times, "worker_lost_repeatedly")


@scenario("F32", "the engine hangs while its worker beats", share=0.25)
def hangs(rig: Rig, times: int) -> Outcome:
    for part in rig.workers:
        part.start_anew({"ATTUNE_STALL_S": str(STALL_S)})
    rig.until_ready()
    outcome = _doomed(rig, "hang forever", times, "worker_lost_repeatedly")
    for part in rig.workers:
        part.start_anew()
    rig.until_ready()
    return outcome


@scenario("F33", "the loss is not a number")
def not_a_number(rig: Rig, times: int) -> Outcome:
    return _doomed(rig, "not a number", times, "loss_not_finite")
