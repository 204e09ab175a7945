"""Keeps the preparation child (`python -m core.prepare`) running beside the web process and pokes it.

The child dies with this process, since its stdin ends; one that dies by itself is started again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import structlog

log = structlog.get_logger()
RESTART_S = 1.0
END_GRACE_S = 3.0


class Preparation:
    """`start` and `stop` bracket the web process's life; `poke` says that there is something to prepare."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="preparation", daemon=True)

    def start(self) -> None:
        self._spawn()
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        process = self._process
        if process is None:
            return
        assert process.stdin is not None
        try:
            process.stdin.close()
            process.wait(END_GRACE_S)
        except (OSError, subprocess.TimeoutExpired):
            process.kill()  # its claim ends with its lease, or with the next start
            process.wait()

    def poke(self) -> None:
        """Never raises: a child that is down looks by itself when it is back. Never waits: one that has not read its
        pipe to the end is busy, and looks again before it rests."""
        with self._lock:
            process = self._process
            if process is None or process.stdin is None:
                return
            try:
                process.stdin.write(b"\n")  # of a full pipe it writes nothing
            except (OSError, ValueError):
                log.info("preparation_not_poked")

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def _spawn(self) -> None:
        with self._lock:
            self._process = subprocess.Popen([sys.executable, "-m", "core.prepare"], stdin=subprocess.PIPE, bufsize=0)
            assert self._process.stdin is not None
            os.set_blocking(self._process.stdin.fileno(), False)

    def _watch(self) -> None:
        while not self._stopping.is_set():
            assert self._process is not None
            code = self._process.wait()
            if self._stopping.is_set():
                return
            log.warning("preparation_ended", code=code)
            time.sleep(RESTART_S)
            self._spawn()
