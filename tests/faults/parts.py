"""One program of a deployment under harm: started, killed, stopped, and started again as a supervisor would."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tests.services import end_with_parent

START_AGAIN_S = 0.2


class Part:
    """One program of the deployment; started again when it dies, unless told to stay down."""

    def __init__(self, name: str, command: tuple[str, ...], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self._command = command
        self._environment = environment
        self._log = log
        self._lock = threading.RLock()
        self._wanted = False
        self._extra: dict[str, str] = {}
        self.process: subprocess.Popen[bytes] | None = None
        self.deaths = 0

    def start(self, extra: Mapping[str, str] | None = None) -> None:
        """With `extra` in its environment, until it is started anew by `start`."""
        with self._lock:
            self._extra = dict(extra or {})
            self._wanted = True
            self._spawn()

    def start_anew(self, extra: Mapping[str, str] | None = None) -> None:
        """Killed, and started with `extra` in its environment."""
        with self._lock:
            self.kill()
            if self.process is not None:
                self.process.wait()
            self.start(extra)

    def _spawn(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                env={**self._environment, **self._extra},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=end_with_parent,  # a rig that is killed leaves nothing behind
            )

    def look_after(self) -> None:
        with self._lock:
            if self._wanted and self.process is not None and self.process.poll() is not None:
                self.deaths += 1
                time.sleep(START_AGAIN_S)
                self._spawn()

    def signal(self, number: signal.Signals) -> None:
        """To the program alone: what it leaves behind has to see to itself."""
        with self._lock, suppress(ProcessLookupError):
            if self.process is not None:
                self.process.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def stop(self, within_s: float = 20.0) -> None:
        """SIGTERM, and down it stays. Raises TimeoutExpired when it does not end."""
        with self._lock:
            self._wanted = False
            if self.process is None:
                return
            self.signal(signal.SIGTERM)
            try:
                self.process.wait(within_s)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
