"""One configuration of `tests.bench.plan`, trained in a process of its own: the peak above the idle engine.

Reads the work folder's path and prints one line of JSON. The peak is what the engine itself reports of a run.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

from pydantic import BaseModel

from core.protocol import Trained, TrainTask, WorkFolder
from worker.engine.resident import Resident
from worker.engine.train import train
from worker.engine.work import work  # noqa: F401  # what an idle engine has imported


def main() -> None:
    folder = WorkFolder(Path(sys.argv[1]))
    task = TrainTask.model_validate_json(folder.task.read_bytes())
    taken: list[int | None] = []

    def report(message: BaseModel) -> None:
        if isinstance(message, Trained):
            taken.append(message.peak_memory_bytes)

    threads = task.execution.threads if task.execution else 1
    train(Resident(), folder, report, threading.Event(), threads)
    print(json.dumps({"peak_bytes": taken[0]}), flush=True)
    os._exit(0)


main()
