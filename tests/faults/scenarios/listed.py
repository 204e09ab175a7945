"""The list that scenarios put themselves on, and the ways of doing harm that many of them share.

A scenario creates its own jobs, does its harm, mends it, and waits until all jobs have ended; the invariants are
checked by the caller. `times` is how often the harm is done.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import openai

from tests.faults.history import ENDED, Intent
from tests.faults.parts import Part
from tests.faults.rig import Rig


@dataclass
class Outcome:
    """`landed`: faults that hit something in the middle; `recovery_s`: from the mending to the last end."""

    landed: int
    recovery_s: float
    least: int = 0  # to land for the run to be valid; 0: one for every two times


class NotCovered(Exception):
    """This machine has no real means for this fault; the text says which is missing."""


Scenario = Callable[[Rig, int], Outcome]


@dataclass(frozen=True)
class Listed:
    number: str  # the reference's
    title: str
    act: Scenario
    kinds: tuple[str, ...]  # of deployment, to which it applies
    share: float  # of the usual number of times, for those that restart parts or wait out leases
    why_not: str  # it does not apply to the others


SCENARIOS: dict[str, Listed] = {}
BOTH = ("services", "embedded")
SERVICES = ("services",)
EMBEDDED = ("embedded",)


def scenario(
    number: str, title: str, kinds: tuple[str, ...] = BOTH, *, share: float = 1.0, why_not: str = ""
) -> Callable[[Scenario], Scenario]:
    assert (kinds == BOTH) == (not why_not), number

    def add(function: Scenario) -> Scenario:
        SCENARIOS[number] = Listed(number, title, function, kinds, share, why_not)
        return function

    return add


def busy(rig: Rig, intent: Intent) -> Part:
    """The worker that runs the job now."""
    workers = rig.http().get("/v1/attune/workers").json()["data"]
    name = next((row["id"] for row in workers if row["job"] == intent.job_id), None)
    if name is None:
        return random.choice(rig.workers)
    return next((part for part in rig.workers if name.endswith(part.name.removeprefix("worker"))), rig.workers[0])


def running(rig: Rig, steps: int = 150) -> Intent:
    """A job that has taken a few steps."""
    intent = rig.create(rig.upload(), steps)
    target = random.randint(2, 20)
    rig.until(lambda: rig.step(intent) >= target or rig.status(intent) in ENDED, "a job takes steps")
    return intent


def harm_running(rig: Rig, times: int, harm: Callable[[Part, Intent], object], steps: int = 150) -> Outcome:
    """Do `harm` to the worker of a running job, `times` times, each to a job of its own."""
    landed, recovery_s = 0, 0.0
    for _ in range(times):
        intent = running(rig, steps)
        time.sleep(random.random() * 0.3)
        landed += rig.status(intent) == "running"
        harm(busy(rig, intent), intent)
        recovery_s = max(recovery_s, rig.until_ended([intent]))
    return Outcome(landed, recovery_s)


def create_for(rig: Rig, seconds: float, file_id: str, *, every_s: float = 0.5) -> tuple[list[Intent], list[str]]:
    """Ask for small jobs for so long, without trying again: those that were made, and the errors of the others."""
    made: list[Intent] = []
    refused: list[str] = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            made.append(rig.create(file_id, 12, rig.client(retries=0)))
        except openai.InternalServerError as error:
            refused.append(f"{error.status_code} {error.response.headers.get('retry-after')}")
        except openai.APIError as error:
            refused.append(type(error).__name__)
        time.sleep(every_s)
    return made, refused


def cancel(rig: Rig, intent: Intent) -> None:
    """Remembered once it is acknowledged; a job that has ended says so, and that is an answer too."""
    if intent.job_id is None:
        return
    intent.may_end = ("succeeded", "cancelled")
    with suppress(openai.BadRequestError):  # it has ended already
        job = rig.client(key=intent.key).fine_tuning.jobs.cancel(intent.job_id)
        intent.cancelled = job.status == "cancelled"
