"""A program beside the training: JSON lines go to it through a queue, and its answers are read when there is time."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "PYTHONPATH",
              "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
              "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")  # fmt: skip

_BY_FILE = ("WANDB_API_KEY", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD")  # with _FILE behind: a path

_SECRET = re.compile("KEY|TOKEN|PASSWORD|SECRET")
_USERINFO = re.compile(r"(?<=://)[^/\s]+@")


def environment(prefix: str) -> dict[str, str]:
    """What such a program gets to see: no secret of ours, and every variable of its own. Raises OSError."""
    seen = {name: value for name, value in os.environ.items() if name in _PASSED_ON or name.startswith(prefix)}
    for name in _BY_FILE:
        if path := seen.pop(f"{name}_FILE", None):
            seen[name] = Path(path).read_text().strip()
    return seen


def without_secrets(text: str) -> str:
    """`text` for the user to read: no password of an address, and no value of the operator's secret variables.

    Client libraries write the address that failed into their errors, as it is.
    """
    for name, value in os.environ.items():
        if value and _SECRET.search(name):
            text = text.replace(value, "…")
    return _USERINFO.sub("…@", text)


class TrackingProgram:
    """One program, its queue of lines, and what it answered."""

    def __init__(self, module: str, prefix: str, log_file: Path, request: dict[str, Any]) -> None:
        """`prefix`: of the environment variables that are handed on to it."""
        with log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment(prefix),
                start_new_session=True,
            )
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="integration-answers", daemon=True)
        self._reader.start()
        threading.Thread(target=self._write, name="integration-steps", daemon=True).start()
        self.send(request)

    def send(self, message: dict[str, Any]) -> None:
        self._lines.put(json.dumps(message).encode() + b"\n")

    def answers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        with suppress(queue.Empty):
            while True:
                found.append(self._answers.get_nowait())
        return found

    def end(self) -> None:
        self._lines.put(None)

    def wait(self, timeout_s: float) -> bool:
        """Has it ended, and all it said been read?"""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        self._reader.join(1.0)
        return True

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # with the processes of its own
        self._process.wait()

    def _write(self) -> None:
        assert self._process.stdin is not None
        # a program that has died takes no lines; its reader says so
        with suppress(OSError), self._process.stdin as stdin:
            while (line := self._lines.get()) is not None:
                stdin.write(line)
                stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        refused = False
        with self._process.stdout as stdout:
            for line in stdout:
                answer = json.loads(line)
                refused = refused or "error" in answer
                self._answers.put(answer)
        code = self._process.wait()
        if code != 0 and not refused:
            self._answers.put({"error": f"its program ended with {code}"})
