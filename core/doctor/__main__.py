"""`python -m core.doctor`: one order on stdin, its progress and result as lines of JSON on stdout, and the end.

A process of its own for every order: what a foreign file does to its parser costs this process alone. It is
bounded in memory and time from its first line on, and knows neither the database nor a credential.
"""

from __future__ import annotations

import os
import resource
import sys
import time

import msgspec

from core.doctor.orders import Convert, Failure, Order, Preview, Progress, Repair, Report, Said, Show, Split
from core.errors import AttuneError

MEMORY_LIMIT_BYTES = 4 * 1024**3  # address space, of which the libraries map about one and a half
TIME_LIMIT_S = 3600  # of processor time
MAX_FILE_BYTES = 16 * 1024**3  # that it may write
_TOLD_EVERY_S = 0.5


class _Teller:
    def __init__(self, out: int) -> None:
        self._out = out
        self._stage = ""
        self._at = 0.0

    def progress(self, stage: str, share: float) -> None:
        now = time.monotonic()
        if stage == self._stage and now - self._at < _TOLD_EVERY_S:
            return
        self._stage, self._at = stage, now
        self.say(Said(progress=Progress(stage, round(min(share, 1.0), 4))))

    def say(self, said: Said) -> None:
        data = memoryview(msgspec.json.encode(said) + b"\n")
        while data:
            data = data[os.write(self._out, data) :]


def _carry_out(order: Order, teller: _Teller) -> dict[str, object]:
    # each imports what it needs and no more: a preview has to start fast
    if isinstance(order, Preview):
        from core.doctor.convert import preview

        return preview(order)
    if isinstance(order, Convert):
        from core.doctor.convert import convert

        return convert(order, teller.progress)
    if isinstance(order, Report):
        from core.doctor.report import report

        return report(order, teller.progress)
    if isinstance(order, Repair):
        from core.doctor.repairs import repair

        return repair(order, teller.progress)
    if isinstance(order, Split):
        from core.doctor.split import split

        return split(order, teller.progress)
    assert isinstance(order, Show)
    from core.doctor.shown import show

    return show(order)


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (TIME_LIMIT_S, TIME_LIMIT_S))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_FILE_BYTES, MAX_FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    out = os.dup(1)
    os.dup2(2, 1)  # what a library prints is no answer
    teller = _Teller(out)
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=Order)
    try:
        said = Said(result=_carry_out(order, teller))
    except AttuneError as error:
        said = Said(failure=Failure(error.code or "invalid_value", error.message, error.param))
    except MemoryError:
        said = Said(failure=Failure("doctor_out_of_memory", "Reading the file takes too much memory; split it."))
    teller.say(said)


if __name__ == "__main__":
    main()
