"""One configuration of `tests.bench.plan`, trained in a process of its own: the peak above the idle engine.

Reads the work folder's path and prints one line of JSON. The peak is the kernel's (VmHWM), reset once everything
that an engine imports stands.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

from pydantic import BaseModel

from core.protocol import Started, TrainTask, WorkFolder
from worker.engine.resident import Resident
from worker.engine.train import train
from worker.engine.work import work  # noqa: F401  # what an idle engine has imported


def resident_kib(field: str) -> int:
    """VmRSS: now. VmHWM: at most since the last reset."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(f"{field}:"))


def main() -> None:
    folder = WorkFolder(Path(sys.argv[1]))
    task = TrainTask.model_validate_json(folder.task.read_bytes())
    idle_kib = resident_kib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    loaded: dict[str, int] = {}

    def report(message: BaseModel) -> None:
        if isinstance(message, Started):
            loaded["peak"], loaded["rss"] = resident_kib("VmHWM"), resident_kib("VmRSS")

    resident = Resident()
    threads = task.execution.threads if task.execution else 1
    train(resident, folder, report, threading.Event(), threads)
    peak_kib = resident_kib("VmHWM")
    print(
        json.dumps(
            {
                "idle_bytes": idle_kib * 1024,
                "started_bytes": (loaded["rss"] - idle_kib) * 1024,
                "started_peak_bytes": (loaded["peak"] - idle_kib) * 1024,
                "peak_bytes": (peak_kib - idle_kib) * 1024,
            }
        ),
        flush=True,
    )
    os._exit(0)


main()
