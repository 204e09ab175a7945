"""A steady mix for as long as one likes: its tail, its failures, and whether the web process grows."""

from __future__ import annotations

import statistics
import threading
import time

import psutil

from tests.bench.upload import MIB
from tests.load.deployment import Deployment, generated
from tests.load.figures import Floor, Row
from tests.load.generator import Call, Plan
from tests.load.requests import GET, LIST, create_call, failures, upload_call

PER_S = 100.0
WEIGHTS = (70, 15, 10, 5)  # looks at a job, lists, creates, uploads
LOOK_EVERY_S = 1.0
WARM = 0.2  # of the time, in which caches fill


class Growth:
    """The resident size of a process over the time of the block, in bytes."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._ending = threading.Event()
        self._sizes: list[tuple[float, int]] = []
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Growth:
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._ending.wait(LOOK_EVERY_S):
            self._sizes.append((time.monotonic(), self._process.memory_info().rss))

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    @property
    def later(self) -> list[tuple[float, int]]:
        return self._sizes[int(len(self._sizes) * WARM) :]

    @property
    def mib_per_h(self) -> float:
        """The slope of a straight line through the sizes after the first fifth."""
        times, sizes = zip(*self.later, strict=True)
        return statistics.linear_regression(times, sizes).slope * 3600 / MIB


def measure(place: Deployment, minutes: float) -> Row:
    project, key = place.tenant("mixed")
    file_id = place.file(key)
    ids = place.copies(place.prepared_job(key, file_id), 10_000, status="succeeded", project_id=project)
    mix = (GET, LIST, create_call(file_id), upload_call())
    calls = [Call(**{**vars(call), "weight": weight}) for call, weight in zip(mix, WEIGHTS, strict=True)]
    with Growth(place.web) as growth:
        report = generated(Plan(place.address, [key], calls, 60 * minutes, 64, PER_S, ids=ids[:1000]))
    refused = sum(
        number
        for call in report["calls"].values()
        for status, number in call["statuses"].items()
        if status != "200"
    )  # fmt: skip
    errors = max(failures(report), refused)
    sizes = [size for _, size in growth.later]
    return Row(
        f"mix of {'/'.join(map(str, WEIGHTS))} at {PER_S:.0f}/s",
        [
            (Floor("mixed_p99_ms", 150, "ms"), report["p99_ms"]),
            (Floor("mixed_errors", 0, ""), errors),
            (Floor("web_rss_growth_mib_per_h", 5, "MiB/h"), growth.mib_per_h),
        ],
        report["p50_ms"],
        report["p99_ms"],
        errors,
        f"ran {minutes:g} min; web process {sizes[0] / MIB:.0f} to {sizes[-1] / MIB:.0f} MiB",
    )
