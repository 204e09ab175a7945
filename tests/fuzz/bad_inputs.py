"""The 84 bad inputs by number: each has to be answered as it should, in time, without a 5xx and without growth.

What a row of the reference calls good (CRLF, U+2028, odd names) has to be taken, and cleaned.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import httpx

from tests.fuzz import bad_calls, bad_files
from tests.fuzz.subject import Peak, Subject

CASES = (*bad_files.CASES, *bad_calls.CASES)
GROWTH_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class Verdict:
    number: int
    title: str
    answers: int
    seconds: float  # all answers of the case together
    growth_bytes: int
    five_xx: int
    faults: list[str]

    @property
    def is_clear(self) -> bool:
        return not self.faults and self.answers > 0


def judged(s: Subject, numbers: Iterable[int] = (), patience: float = 1.0) -> Iterator[Verdict]:
    """Each case, or those of `numbers`, against one web process. `patience`: how much longer it may take."""
    wanted = set(numbers)
    return (_judge(s, case, patience) for case in CASES if not wanted or case[0] in wanted)


def _judge(s: Subject, case: bad_files.Case, patience: float) -> Verdict:
    number, title, send, limit_s = case
    limit_s *= patience
    verdict = _once(s, number, title, send, limit_s)
    # Other work on the machine may have held it up: what was only late is asked once more
    is_late = verdict.faults and all(fault.startswith("took") for fault in verdict.faults)
    return _once(s, number, title, send, limit_s) if is_late else verdict


def _once(s: Subject, number: int, title: str, send: bad_files.Send, limit_s: float) -> Verdict:
    s.faults, s.five_xx, s.answers = [], 0, 0
    started = time.monotonic()
    with Peak(s.process) as peak:
        try:
            send(s)
        except (httpx.HTTPError, OSError, ValueError) as error:
            s.faults.append(f"no answer: {error!r}")
    seconds = time.monotonic() - started
    if seconds > limit_s * max(1, s.answers):
        s.faults.append(f"took {seconds:.1f} s for {s.answers} answers")
    if peak.growth_bytes > GROWTH_BYTES:
        s.faults.append(f"grew by {peak.growth_bytes / 1024**2:.0f} MiB")
    return Verdict(number, title, s.answers, seconds, peak.growth_bytes, s.five_xx, s.faults)
