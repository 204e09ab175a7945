"""The two ends of the protocol: a watcher that reads commands from stdin, and a writer of reports.

The watcher runs beside the work, since a Stop must reach a running job and a closed stdin must end the program
at any moment: the parent's death is seen by nothing else.
"""

from __future__ import annotations

import os
import queue
import select
import sys
import threading
from dataclasses import dataclass, field
from typing import BinaryIO

from pydantic import BaseModel, ValidationError

from core.protocol import Exit, Prove, Stop, Train, parse_command


@dataclass(frozen=True)
class Work:
    """A command to carry out, and the flag by which a Stop that follows it on stdin reaches it."""

    command: Train | Prove | Exit
    stop: threading.Event = field(default_factory=threading.Event)


class Commands:
    """Reads commands; `next` gives them in turn."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._queue: queue.SimpleQueue[Work] = queue.SimpleQueue()
        self._latest = threading.Event()  # belongs to the last Work read

    def watch(self) -> None:
        """Until stdin closes; then the program ends at once, whatever it is doing."""
        for line in self._stream:
            try:
                command = parse_command.validate_json(line)
            except ValidationError as error:
                print(f"a command that cannot be read ends the engine: {error}", file=sys.stderr, flush=True)
                os._exit(2)
            if isinstance(command, Stop):
                self._latest.set()
            else:
                work = Work(command)
                self._latest = work.stop
                self._queue.put(work)
        os._exit(0)  # no clean-up: a snapshot in the making is under a temporary name

    def watch_for_the_end(self) -> None:
        """The same without reading, for a process whose commands come through another that reads this pipe."""
        pipe = select.poll()
        pipe.register(self._stream, 0)  # a hang-up is told unasked
        pipe.poll()
        os._exit(0)

    def next(self) -> Work:
        return self._queue.get()


class Reports:
    """Writes reports, each one line, to a descriptor of its own."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __call__(self, report: BaseModel) -> None:
        """Write one report whole. Ends the program when nobody reads any more."""
        left = memoryview((report.model_dump_json() + "\n").encode())
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
        except BrokenPipeError:
            os._exit(0)
