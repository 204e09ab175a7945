"""`make load`: every floor of load, measured on a deployment of its own. Prints a table and ends in one line of JSON.

Postgres waits for its disk (fsync) and one web process answers, all on this machine, and so does the generator. Files
lie in a folder, since the S3 server of the tests is slower than what is measured.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.engine.tiny_base import make_base
from tests.live import BASE
from tests.load import bodies, events, limits, overload, queue, requests, steady
from tests.load.deployment import Deployment, deployment
from tests.load.figures import Row, line, show

LARGE = 2 * 1024**3  # max_file_bytes


@dataclass(frozen=True)
class Sizes:
    seconds: float  # of a load
    minutes: float  # of the steady mix
    windows: int  # minutes of the rate limit
    jobs: int  # in the queue
    many: int  # jobs in the large list


Group = Callable[[Deployment, Sizes], Sequence[Row]]
GROUPS: Mapping[str, tuple[Group, Mapping[str, Any]]] = {
    "requests": (lambda place, sizes: requests.measure(place, sizes.seconds, sizes.many), {}),
    "overload": (lambda place, sizes: overload.measure(place, sizes.seconds / 2), {}),
    "listeners": (lambda place, sizes: [events.listeners(place, sizes.seconds / 2)], {}),
    "listeners-sqlite": (
        lambda place, sizes: [events.listeners(place, sizes.seconds / 2, prefix="sqlite_")],
        {"embedded": True},
    ),
    "webhooks": (lambda place, sizes: [events.webhooks(place)], {}),
    "leases": (lambda place, sizes: [queue.leases(place, sizes.seconds)], {}),
    "drain": (lambda place, sizes: [queue.drain(place, sizes.jobs)], {"workers": 2}),
    "bodies": (lambda place, sizes: bodies.measure(place), {"max_file_bytes": LARGE}),
    "limits": (lambda place, sizes: [limits.measure(place, sizes.windows)], {"webs": 2}),
    "steady": (lambda place, sizes: [steady.measure(place, sizes.minutes)], {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help=f"comma separated groups: {', '.join(GROUPS)}")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each load")
    parser.add_argument("--minutes", type=float, default=30.0, help="of the steady mix, in which memory has to stay")
    parser.add_argument("--windows", type=int, default=10, help="minutes of the rate limit")
    parser.add_argument("--jobs", type=int, default=queue.QUEUED, help="in the queue that is drained")
    parser.add_argument("--many", type=int, default=requests.MANY_JOBS, help="jobs in the large list")
    given = parser.parse_args()
    sizes = Sizes(given.seconds, given.minutes, given.windows, given.jobs, given.many)
    rows: list[Row] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="attune-load-")))
        base = make_base(folder / BASE)
        for name in given.only.split(",") if given.only else GROUPS:
            group, options = GROUPS[name]
            (folder / name).mkdir()
            with deployment(folder / name, base, **options) as place:
                found = group(place, sizes)
            rows += found
            show(found)  # at once: the whole takes most of an hour
    show(rows)
    print(line(rows))


if __name__ == "__main__":
    main()
