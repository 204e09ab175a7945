"""`python -m worker.tensorboard_run FOLDER`: TensorBoard's event file in an empty folder, from steps on stdin.

A program of its own, since the libraries that it loads have no place in the worker's memory.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

WITHOUT = 3  # exit code: there is no tensorboard


def main() -> int:
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError:
        return WITHOUT
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    writer = EventFileWriter(str(folder))
    for line in sys.stdin:
        data = json.loads(line)
        wall_time, step = data.pop("wall_time"), data["step"]
        values = [Summary.Value(tag=name, simple_value=value) for name, value in data.items()]
        writer.add_event(Event(wall_time=wall_time, step=step, summary=Summary(value=values)))
    writer.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
