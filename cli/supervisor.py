"""Keep a few programs running: start again what dies, stop all of them in time, leave no process behind.

Every program leads a session of its own, so a Ctrl-C reaches the supervisor alone. If the supervisor itself is
killed, the kernel ends its programs (`cli.leash`); what a dead program leaves behind is ended too.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from cli import leash
from cli.prefixed import PrefixedLines

FIRST_BACKOFF_S = 0.2
MAX_BACKOFF_S = 10.0
STEADY_S = 30.0  # a life this long ends the backoff
KILL_AFTER_S = 8.8  # from the first SIGTERM; the promise is 10 s, on a busy machine too
LAST_LINES_S = 0.5  # for what the programs wrote before they ended
_LOOK_S = 0.1  # how soon a death is noticed
_PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>


@dataclass(frozen=True)
class Program:
    """A command that should always run; `environment` is its whole environment."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    folder: Path  # it starts in


class _Child:
    """One program and its present process, if it has one."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.process: subprocess.Popen[bytes] | None = None
        self.started_at = 0.0  # monotonic, as the next
        self.start_at = 0.0
        self.backoff_s = FIRST_BACKOFF_S


class Supervisor:
    """Runs programs until `stop` is called. Use it from the main thread: the leash follows the starting thread."""

    def __init__(self, lines: PrefixedLines) -> None:
        self._lines = lines
        self._children: list[_Child] = []
        self._pumps: list[threading.Thread] = []
        self._stopping = threading.Event()
        self._hurry = threading.Event()
        if sys.platform == "linux":
            # orphans of our programs become our children, where we can find and end them
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def stop(self) -> None:
        """End everything in order; called a second time, at once. Safe in a signal handler."""
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    def run_once(self, program: Program) -> int | None:
        """Run a program to its end; its exit code, or None when `stop` cut it short."""
        process = self._spawn(program)
        while (code := process.poll()) is None and not self._stopping.wait(_LOOK_S):
            pass
        if code is None:
            _kill_group(process)
        self._end_pumps()
        return code

    def run(self, programs: Sequence[Program]) -> None:
        """Keep `programs` running until `stop`, then end them all. Takes at most 10 s from the stop."""
        self._children = [_Child(program) for program in programs]
        try:
            while not self._stopping.is_set():
                for child in self._children:
                    self._look_after(child)
                self._stopping.wait(_LOOK_S)
        finally:
            self._end_all()

    def _look_after(self, child: _Child) -> None:
        now = time.monotonic()
        if child.process is None:
            if now >= child.start_at:
                child.process = self._spawn(child.program)
                child.started_at = now
            return
        code = child.process.poll()
        if code is None:
            return
        _kill_group(child.process)
        child.process = None
        self._end_orphans()
        if now - child.started_at >= STEADY_S:
            child.backoff_s = FIRST_BACKOFF_S
        child.start_at = now + child.backoff_s
        self._lines.say(f"{child.program.name} {_how(code)}; starting it again in {child.backoff_s:.1f} s")
        child.backoff_s = min(2 * child.backoff_s, MAX_BACKOFF_S)

    def _spawn(self, program: Program) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            # -I -S: the leash needs no site-packages, and starts in a third of the time without
            [sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), *program.command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(program.environment),
            cwd=program.folder,
            start_new_session=True,
        )
        assert process.stdout is not None
        self._pumps = [pump for pump in self._pumps if pump.is_alive()]
        self._pumps.append(self._lines.pump(program.name, process.stdout))
        return process

    def _end_all(self) -> None:
        deadline = time.monotonic() + KILL_AFTER_S
        running = [child.process for child in self._children if child.process is not None]
        # programs of theirs may lead sessions of their own and, outside Linux, are not handed to us
        descendants = psutil.Process().children(recursive=True)
        for process in running:
            process.terminate()
        while any(process.poll() is None for process in running):
            if time.monotonic() >= deadline or self._hurry.wait(_LOOK_S / 2):
                break
        for child in self._children:
            if child.process is not None and child.process.poll() is None:
                self._lines.say(f"{child.program.name} did not stop in time; killing it")
        for process in running:
            _kill_group(process)
        for descendant in descendants:
            with suppress(psutil.NoSuchProcess):
                descendant.kill()
        self._end_orphans()
        self._end_pumps()

    def _end_orphans(self) -> None:
        """Kill what was handed to us and is no program of ours; its own children come to us in turn."""
        known = {child.process.pid for child in self._children if child.process is not None}
        while orphans := [child for child in psutil.Process().children() if child.pid not in known]:
            for orphan in orphans:
                with suppress(psutil.NoSuchProcess):
                    orphan.kill()
                with suppress(psutil.NoSuchProcess, ChildProcessError):
                    os.waitpid(orphan.pid, 0)

    def _end_pumps(self) -> None:
        """Let the last lines through."""
        deadline = time.monotonic() + LAST_LINES_S
        for pump in self._pumps:
            pump.join(timeout=max(0.0, deadline - time.monotonic()))


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """End a program and what stayed in its group; returns once the program is gone."""
    with suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a group of zombies
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _how(code: int) -> str:
    if code < 0:
        return f"was ended by signal {-code} ({signal.strsignal(-code)})"
    return f"ended with exit code {code}"
