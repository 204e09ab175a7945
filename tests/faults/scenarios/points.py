"""F4 and F34: each named point of the code at which a process may die, and cancels that race with it."""

from __future__ import annotations

import random
import threading
import time
from contextlib import suppress

import openai

from core.crash_points import POINTS
from tests.faults.history import Intent
from tests.faults.parts import Part
from tests.faults.rig import Rig
from tests.faults.scenarios.listed import Outcome, cancel, scenario

# The crash points that the web process, or its child, passes; the others are the workers'
IN_WEB = ("upload", "create", "answer", "cancel", "prepare", "webhook")


def _arm(rig: Rig, name: str, passing: int, turn: str) -> list[Part]:
    """Those that pass the point are started anew, to die at it once."""
    flag = rig.folder / f"crash-{name}-{turn}"
    flag.unlink(missing_ok=True)
    parts = [rig.web] if name.startswith(IN_WEB) else rig.workers
    for part in parts:
        part.start_anew({"ATTUNE_CRASH_AT": f"{name}:{passing}:{flag}"})
    rig.until_ready()
    return parts


def _disarm(rig: Rig) -> None:
    for part in rig.parts.values():
        part.start_anew()
    rig.until_ready()


@scenario("F4", "kill at each named point", share=0.05)
def kill_points(rig: Rig, times: int) -> Outcome:
    """The part that passes the point dies there, once; the client repeats what it has no answer to."""
    landed, recovery_s = 0, 0.0
    for name in POINTS:
        for passing in range(1, times + 1):
            _arm(rig, name, passing, f"F4-{passing}")
            intents: list[Intent] = []
            for steps in (12, 60):
                with suppress(openai.APIError):
                    intents.append(rig.create(rig.upload(), steps))
            if name.startswith("cancel") and intents:
                cancel(rig, intents[-1])
            recovery_s = max(recovery_s, rig.until_ended(intents))
            landed += (rig.folder / f"crash-{name}-F4-{passing}").exists()
    _disarm(rig)
    return Outcome(landed, recovery_s, least=len(POINTS) * times // 2)


@scenario("F34", "a cancel races with the kill at each named point", share=0.25)
def cancel_races(rig: Rig, times: int) -> Outcome:
    """`times` jobs for each point, each cancelled at a moment of its own: before the kill, in it, or after."""
    landed, recovery_s = 0, 0.0
    for name in POINTS:
        _arm(rig, name, 1, "F34")
        intents: list[Intent] = []
        races: list[threading.Thread] = []
        for _ in range(times):
            with suppress(openai.APIError):
                intents.append(rig.create(rig.upload(), 30))
                races.append(threading.Thread(target=_cancel_later, args=(rig, intents[-1], 2 * random.random())))
                races[-1].start()
        for race in races:
            race.join()
        recovery_s = max(recovery_s, rig.until_ended(intents))
        if (rig.folder / f"crash-{name}-F34").exists():
            landed += len(races)
    _disarm(rig)
    return Outcome(landed, recovery_s, least=len(POINTS) * times // 2)


def _cancel_later(rig: Rig, intent: Intent, after_s: float) -> None:
    time.sleep(after_s)
    with suppress(openai.APIError):  # no answer came: it may have been cancelled, or not
        cancel(rig, intent)
