"""`make bench-doctor`: 100 MB of JSONL structurally checked, and a plan asked for anew as a slider does.

The check runs in a process of its own, which says its speed and how much it grows. The plan is asked for by moving the
sliders of the page in a real browser, and over HTTP, of a running service that has counted the file. Prints tables and
ends in one line of JSON: the median of the speeds, the largest growth, and the times that 95 of 100 plans stay within.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.sliders import update_ms
from tests.bench.structural import MB, MIB, Run, check_apart, write_training_file
from tests.engine.tiny_base import make_base
from tests.live import BASE, Live, live_service

PLANS = 100
PLANNED_EXAMPLES = 10_000
CONTEXT = 32_768  # tokens: as far as the slider goes
COUNTED_S = 120.0


@dataclass(frozen=True)
class Plans:
    """Milliseconds: of each move of a slider to the page's new figures, and of each POST /v1/attune/plans."""

    by_slider: dict[str, list[float]]
    over_http: list[float]

    @property
    def in_browser(self) -> list[float]:
        return [one for times in self.by_slider.values() for one in times]


def measure_plans(folder: Path) -> Plans:
    path = folder / "planned.jsonl"
    path.write_text("".join(_short_chat(number) for number in range(PLANNED_EXAMPLES)))
    with live_service(folder / "data", make_base(folder / "base" / BASE, context=CONTEXT)) as live:
        live.wait_for_worker()
        file_id = live.client().files.create(file=path, purpose="fine-tune").id
        over_http = _ask(live, file_id)
        return Plans(update_ms(live, file_id), over_http)


def _short_chat(number: int) -> str:
    """One that every stop of the length's slider takes."""
    turns = [{"role": "user", "content": f"order {number}?"}, {"role": "assistant", "content": "on its way"}]
    return json.dumps({"messages": turns}) + "\n"


def _ask(live: Live, file_id: str) -> list[float]:
    """Of each, for another rank every time."""
    times: list[float] = []
    with live.http() as http:

        def ask(rank: int) -> bool:
            body = {"model": BASE, "training_file": file_id, "attune": {"lora": {"rank": rank}}}
            answer = http.post("/v1/attune/plans", json=body)
            answer.raise_for_status()
            return answer.json()["status"] == "ready"

        deadline = time.monotonic() + COUNTED_S
        while not ask(1):  # until the tokens are counted
            assert time.monotonic() < deadline, "the file was not counted"
            time.sleep(0.2)
        for rank in range(1, PLANS + 1):
            started = time.perf_counter()
            is_ready = ask(rank)
            times.append((time.perf_counter() - started) * 1000)
            assert is_ready
    return times


def print_tables(runs: list[Run], size: int, plans: Plans) -> None:
    checked = Table(title="100 MB of JSONL, structurally checked")
    for heading in ("run", "MB per second of one core (goal 200)", "MB/s by the clock", "growth, MiB"):
        checked.add_column(heading)
    for number, run in enumerate(runs, 1):
        speeds = [f"{size / MB / seconds:.0f}" for seconds in (run.cpu_s, run.seconds)]
        checked.add_row(str(number), *speeds, f"{run.growth_bytes / MIB:.1f}")
    planned = Table(title="A plan for another setting")
    for heading in ("asked for", "times", "median, ms", "95 of 100 within, ms (goal 200)", "slowest, ms"):
        planned.add_column(heading)
    rows = {
        "in Chromium, any slider": plans.in_browser,
        **{f"in Chromium, {label}": times for label, times in plans.by_slider.items()},
        "over HTTP, rank": plans.over_http,
    }
    for name, times in rows.items():
        figures = (statistics.median(times), within(times), max(times))
        planned.add_row(name, str(len(times)), *(f"{value:.1f}" for value in figures))
    for table in (checked, planned):
        Console().print(table)


def within(times: list[float]) -> float:
    return statistics.quantiles(times, n=20)[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "train.jsonl"
        examples = write_training_file(path, 100 * MB)
        size = path.stat().st_size
        runs = [check_apart(path) for _ in range(repeats)]
        assert all(run.examples == examples for run in runs)
        plans = measure_plans(folder)
    print_tables(runs, size, plans)
    figures = {
        "structural_mb_per_s": round(statistics.median(size / MB / run.cpu_s for run in runs), 1),
        "rss_growth_mib": round(max(run.growth_bytes for run in runs) / MIB, 1),
        "plan_update_ms": round(within(plans.in_browser), 1),
        "plan_answer_ms": round(within(plans.over_http), 1),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
