"""The doctor's process as its starter sees it: an order in, progress and a result out, and an end in any case."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable

import msgspec
import structlog

from core.doctor.orders import Order, Progress, Said
from core.errors import AttuneError

log = structlog.get_logger()
_SHOWN_LOG = 2000
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "PYTHONPATH")


class Child:
    """One order's process. `kill` may be called from another thread at any time."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._killed: str | None = None

    def kill(self, why: str = "ended") -> None:
        with self._lock:
            self._killed = self._killed or why
            if self._process is not None and self._process.poll() is None:
                self._process.kill()

    def run(
        self, on_progress: Callable[[Progress], None] = lambda _: None, *, time_limit_s: float
    ) -> dict[str, object]:
        """What the order came to. Raises AttuneError: what the doctor says, doctor_timeout, doctor_out_of_memory."""
        with tempfile.TemporaryFile() as errors:
            with self._lock:
                if self._killed is not None:
                    raise self._ended(None, "")
                self._process = process = subprocess.Popen(
                    [sys.executable, "-m", "core.doctor"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env={
                        **{name: os.environ[name] for name in _PASSED_ON if name in os.environ},
                        "OMP_NUM_THREADS": "1",
                        "ARROW_DEFAULT_MEMORY_POOL": "system",  # others map address space ahead, which is bounded
                        "TOKENIZERS_PARALLELISM": "false",
                        "HF_HUB_OFFLINE": "1",
                    },
                    start_new_session=True,
                )
            timer = threading.Timer(time_limit_s, self.kill, ["timeout"])
            timer.daemon = True
            timer.start()
            said: Said | None = None
            try:
                assert process.stdin is not None
                assert process.stdout is not None
                try:
                    process.stdin.write(msgspec.json.encode(self._order) + b"\n")
                    process.stdin.close()
                except BrokenPipeError:
                    pass  # its end is met below
                for line in process.stdout:
                    said = msgspec.json.decode(line, type=Said)
                    if said.progress is not None:
                        on_progress(said.progress)
            except msgspec.DecodeError:
                said = None  # it was killed within a line
            finally:
                timer.cancel()
                if process.poll() is None and sys.exc_info()[0] is not None:
                    process.kill()
                process.wait()
            errors.seek(0)
            written = errors.read(64 * 1024).decode(errors="replace")
        if said is not None and said.failure is not None:
            raise AttuneError(said.failure.message, code=said.failure.code, param=said.failure.param)
        if said is None or said.result is None:
            raise self._ended(process.returncode, written)
        return said.result

    def _ended(self, code: int | None, written: str) -> AttuneError:
        if self._killed == "timeout":
            message = "Reading the file took too long and was ended; split the file, or save it in a simpler form."
            return AttuneError(message, code="doctor_timeout", param="file_id")
        if self._killed is not None:
            return AttuneError("The work was ended.", code="task_lost")
        log.warning("doctor_died", code=code, said=written[-_SHOWN_LOG:])
        # A library that is refused memory aborts; Python says so. Nothing else in the file's power ends the process.
        if (code is not None and code < 0) or "MemoryError" in written or "bad_alloc" in written:
            message = "Reading the file takes too much memory; split it, or save it in a simpler form."
            return AttuneError(message, code="doctor_out_of_memory", param="file_id")
        return AttuneError("The doctor could not finish; its log says why.", code="task_lost", status=500)
