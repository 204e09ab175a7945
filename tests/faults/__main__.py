"""`python -m tests.faults`: harm a deployment in every way on the list, and say what was lost. Ends in one JSON line.

A scenario in which too few faults landed proves nothing, and counts as invalid.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.engine.tiny_base import make_base
from tests.faults.check import violations
from tests.faults.rig import Rig, rig
from tests.faults.scenarios import IN_ORDER, SCENARIOS, Listed, NotCovered
from tests.faults.servers import own_mounts
from tests.live import BASE

KINDS = ("services", "embedded")
TIMES = {"short": 1, "normal": 20, "long": 200}


@dataclass
class Row:
    kind: str
    listed: Listed
    least: int  # faults to land
    landed: int = 0
    recovery_s: float = 0.0
    seconds: float = 0.0
    found: list[str] = field(default_factory=list)
    not_covered: str = ""

    @property
    def name(self) -> str:
        return f"{self.kind} {self.listed.number}"

    @property
    def lost(self) -> int:
        return sum(text.startswith("lost") for text in self.found)

    @property
    def duplicated(self) -> int:
        return sum(text.startswith("duplicated") for text in self.found)

    @property
    def is_invalid(self) -> bool:
        """Too few faults landed."""
        return not self.not_covered and self.landed < self.least


def run(place: Rig, listed: Listed, times: int) -> Row:
    """One scenario and its verdict. A scenario that breaks is a finding, and the parts are started anew after it."""
    row = Row(place.kind, listed, least=(times + 1) // 2)
    known = set(violations(place))
    begun = time.monotonic()
    try:
        outcome = listed.act(place, times)
        row.landed, row.recovery_s = outcome.landed, outcome.recovery_s
        row.least = outcome.least or row.least
    except NotCovered as missing:
        row.not_covered = str(missing)
    except Exception as error:
        # Whatever it is, the other scenarios of a long run are still to be had
        row.found.append(f"broke: {type(error).__name__}: {error}")
        for part in place.parts.values():
            part.start_anew()
        place.until_ready()
        with suppress(TimeoutError):  # the invariants say which has not ended
            place.until_ended(place.history.jobs)
    place.until_settled()
    row.seconds = time.monotonic() - begun
    row.found += [text for text in violations(place) if text not in known]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", choices=TIMES, default="normal")
    parser.add_argument("--times", type=int, default=0, help="how often each harm is done, instead of the scale's")
    parser.add_argument("--only", default="", help="comma separated numbers, such as F1,F18")
    parser.add_argument("--kind", choices=(*KINDS, "both"), default="both")
    parser.add_argument("--minutes", type=float, default=0.0, help="begin no scenario after so many; 0: all are run")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--keep", type=Path, help="work in this folder, and leave it")
    options = parser.parse_args()
    random.seed(options.seed)
    wanted = options.only.split(",") if options.only else IN_ORDER
    kinds = KINDS if options.kind == "both" else (options.kind,)
    usual = options.times or TIMES[options.scale]
    last_begin = time.monotonic() + 60 * options.minutes if options.minutes else float("inf")
    disks = own_mounts()
    with tempfile.TemporaryDirectory(prefix="attune-faults-") as scratch:
        folder = options.keep or Path(scratch)
        base = make_base(folder / "base" / BASE)

        def go(kind: str) -> list[Row]:
            (folder / kind).mkdir()
            rows: list[Row] = []
            with rig(kind, folder / kind, base, disks=disks) as place:
                for listed in (SCENARIOS[number] for number in wanted):
                    if kind not in listed.kinds:
                        continue
                    times = max(1, round(usual * listed.share))
                    if time.monotonic() > last_begin:
                        rows.append(Row(kind, listed, times, not_covered="no time was left for it"))
                    else:
                        rows.append(run(place, listed, times))
                    _tell(rows[-1])
            return rows

        # At once: most of the time is spent waiting for leases, outages and starting processes
        with ThreadPoolExecutor(len(kinds)) as pool:
            rows = [row for of_kind in pool.map(go, kinds) for row in of_kind]
    _show(rows)
    print(
        json.dumps(
            {
                "scenarios": len({row.listed.number for row in rows if not row.not_covered}),
                "landed": sum(row.landed for row in rows),
                "lost": sum(row.lost for row in rows),
                "duplicated": sum(row.duplicated for row in rows),
                "invalid": sum(row.is_invalid for row in rows),
                "violations": sum(len(row.found) for row in rows),
                "not_covered": [row.name for row in rows if row.not_covered],
                "seed": options.seed,
            }
        )
    )


def _tell(row: Row) -> None:
    for text in row.found:
        print(f"{row.name}: {text}", flush=True)
    if row.not_covered:
        print(f"{row.name} is not covered: {row.not_covered}", flush=True)
    else:
        print(f"{row.name}: {row.landed} landed, {row.recovery_s:.1f} s, in {row.seconds:.0f} s", flush=True)


def _show(rows: list[Row]) -> None:
    columns = ("scenario", "over", "faults landed", "lost", "duplicated", "other", "slowest recovery, s", "took, s")
    table = Table(*columns, box=None)
    for row in rows:
        landed = "not covered" if row.not_covered else f"{row.landed}{' (invalid)' if row.is_invalid else ''}"
        other = len(row.found) - row.lost - row.duplicated
        table.add_row(f"{row.listed.number} {row.listed.title}", row.kind, landed, str(row.lost), str(row.duplicated),
                      str(other), f"{row.recovery_s:.1f}", f"{row.seconds:.0f}")  # fmt: skip
    Console(width=160).print(table)
    for number, kinds in ((number, listed.kinds) for number, listed in SCENARIOS.items() if len(listed.kinds) == 1):
        print(f"{number} runs over {kinds[0]} alone: {SCENARIOS[number].why_not}")


if __name__ == "__main__":
    main()
