"""`python -m tests.faults`: harm a deployment in every way on the list, and say what was lost. Ends in one JSON line.

A scenario in which too few faults landed proves nothing, and counts as invalid.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.engine.tiny_base import make_base
from tests.faults.check import violations
from tests.faults.rig import Rig, rig
from tests.faults.scenarios import NEEDS_SERVICES, SCENARIOS
from tests.live import BASE

KINDS = ("services", "embedded")
TIMES = {"short": 1, "normal": 20, "long": 200}
# Those that restart every part, or wait out leases, for each fault
SLOW = {"F4": 0.05, "F7": 0.25, "F8": 0.25, "F12": 0.25, "F14": 0.25, "F20": 0.25, "F22": 0.25, "F31": 0.25}


@dataclass(frozen=True)
class Row:
    kind: str
    number: str
    title: str
    landed: int
    recovery_s: float
    found: list[str]

    @property
    def lost(self) -> int:
        return sum(text.startswith("lost") for text in self.found)

    @property
    def duplicated(self) -> int:
        return sum(text.startswith("duplicated") for text in self.found)


def run(place: Rig, number: str, times: int) -> Row:
    """One scenario and its verdict. A scenario that breaks is a finding."""
    title, act = SCENARIOS[number]
    known = set(violations(place))
    try:
        outcome = act(place, times)
        landed, recovery_s, found = outcome.landed, outcome.recovery_s, []
    except (TimeoutError, AssertionError) as error:
        landed, recovery_s, found = 0, float("inf"), [f"lost: {error}"]
    place.until_settled()
    found += [text for text in violations(place) if text not in known]
    return Row(place.kind, number, title, landed, recovery_s, found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", choices=TIMES, default="normal")
    parser.add_argument("--only", default="", help="comma separated numbers, such as F1,F18")
    parser.add_argument("--kind", choices=(*KINDS, "both"), default="both")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--keep", type=Path, help="work in this folder, and leave it")
    options = parser.parse_args()
    random.seed(options.seed)
    rows: list[Row] = []
    wanted = options.only.split(",") if options.only else list(SCENARIOS)
    with tempfile.TemporaryDirectory(prefix="attune-faults-") as scratch:
        folder = options.keep or Path(scratch)
        base = make_base(folder / "base" / BASE)
        for kind in KINDS if options.kind == "both" else (options.kind,):
            (folder / kind).mkdir()
            with rig(kind, folder / kind, base) as place:
                for number in wanted:
                    if kind == "embedded" and number in NEEDS_SERVICES:
                        continue
                    times = max(1, round(TIMES[options.scale] * SLOW.get(number, 1.0)))
                    rows.append(run(place, number, times))
                    for text in rows[-1].found:
                        print(f"{kind} {number}: {text}", flush=True)
                    print(f"{kind} {number} landed {rows[-1].landed} in {rows[-1].recovery_s:.1f} s", flush=True)
    _show(rows)
    print(
        json.dumps(
            {
                "scenarios": len({row.number for row in rows}),
                "landed": sum(row.landed for row in rows),
                "lost": sum(row.lost for row in rows),
                "duplicated": sum(row.duplicated for row in rows),
                "invalid": sum(row.landed == 0 for row in rows),
                "violations": sum(len(row.found) for row in rows),
                "seed": options.seed,
            }
        )
    )


def _show(rows: list[Row]) -> None:
    table = Table("scenario", "over", "faults landed", "lost", "duplicated", "other", "slowest recovery, s", box=None)
    for row in rows:
        other = len(row.found) - row.lost - row.duplicated
        recovery = f"{row.recovery_s:.1f}"
        table.add_row(f"{row.number} {row.title}", row.kind, str(row.landed or "invalid"), str(row.lost),
                      str(row.duplicated), str(other), recovery)  # fmt: skip
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
