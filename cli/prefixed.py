"""What several programs say, on one screen: each line behind the name of the program that said it.

Coloured on a terminal. When nobody reads any more the lines are dropped, so that no program blocks on its log.
"""

from __future__ import annotations

import sys
import threading
from typing import IO

from rich.console import Console

MAX_LINE_BYTES = 16 * 1024  # a longer line is broken
_COLOURS = (36, 33, 35, 32, 34)  # ANSI foregrounds, dealt out in order of first appearance
_BOLD = 1


class PrefixedLines:
    """Writes whole lines to standard output; any thread may call it."""

    def __init__(self, width: int) -> None:
        self._width = width  # of the longest name
        console = Console()
        self._coloured = console.is_terminal and not console.no_color
        self._colours: dict[str, int] = {}
        self._lock = threading.Lock()
        self._unread = False

    def say(self, line: str) -> None:
        """A line of the supervisor's own."""
        self._write(f"\x1b[{_BOLD}m{line}\x1b[0m" if self._coloured else line)

    def write(self, name: str, line: str) -> None:
        prefix = f"{name:<{self._width}} |"
        if self._coloured:
            colour = self._colours.setdefault(name, _COLOURS[len(self._colours) % len(_COLOURS)])
            prefix = f"\x1b[{colour}m{prefix}\x1b[0m"
        self._write(f"{prefix} {line}")

    def pump(self, name: str, pipe: IO[bytes]) -> threading.Thread:
        """Start to copy `pipe` line by line until its end; the thread that does."""
        thread = threading.Thread(target=self._copy, args=(name, pipe), name=f"log-{name}", daemon=True)
        thread.start()
        return thread

    def _copy(self, name: str, pipe: IO[bytes]) -> None:
        with pipe:
            while line := pipe.readline(MAX_LINE_BYTES):
                self.write(name, line.decode(errors="replace").rstrip("\r\n"))

    def _write(self, line: str) -> None:
        with self._lock:
            if self._unread:
                return
            try:
                sys.stdout.write(line + "\n")
                sys.stdout.flush()
            except OSError:
                self._unread = True  # the reader has gone (a closed terminal, `| head`); the service goes on
