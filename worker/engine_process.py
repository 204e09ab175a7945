"""The engine as the runner sees it: a child program, commands in, reports out, and a log for each job.

A crash of it costs an attempt and never this process. It gets a clean environment without any credential, a folder
of its own to stand in, and bounds that the kernel keeps.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import structlog
from pydantic import ValidationError

from core.protocol import Command, Exit, Ready, Report, parse_report

log = structlog.get_logger()
START_TIMEOUT_S = 300.0
MAX_LOG_BYTES = 16 * 1024 * 1024
MAX_FILE_BYTES = 64 * 1024**3  # of one that it writes; a quantised copy or a whole model is the largest
MAX_OPEN_FILES = 4096
# Of address space beside its tensors: a stack and a heap's reserve for each of the few threads that a job starts
RESERVED_BYTES = 512 * 1024**2
SOURCES = Path(__file__).resolve().parents[1]
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "VIRTUAL_ENV",
              "SYSTEMROOT", "ATTUNE_CRASH_AT")  # fmt: skip
LOOPBACK = "lo" if sys.platform == "linux" else "lo0"


def _launcher(processes: int) -> list[str]:
    """torchrun where the engine is several processes, which find each other by a port that is free."""
    alone = [sys.executable]
    if processes == 1:
        return alone
    return [*alone, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]


def _places(listed: str) -> list[str]:
    """Absolute, since the engine stands elsewhere."""
    return [os.path.abspath(place) for place in listed.split(os.pathsep) if place]


class EngineDied(Exception):
    """The engine ended without being asked; the text says how."""


class EngineProcess:
    """One engine from its start. `read` gives its reports in order and raises `EngineDied` after the last."""

    def __init__(
        self,
        *,
        device: str,
        threads: int,
        log_file: Path,
        folder: Path,
        module: str = "worker.engine",
        processes: int = 1,
        cache: Path | None = None,
    ) -> None:
        self._reports: queue.SimpleQueue[Report | None] = queue.SimpleQueue()
        self._log_lock = threading.Lock()
        self._log = log_file.open("ab", buffering=0)  # nothing is left to fail at its closing
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        environment |= {
            "OMP_NUM_THREADS": str(threads),
            # a second busy process on the same cores makes spinning threads several times slower
            "OMP_WAIT_POLICY": "PASSIVE",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONUNBUFFERED": "1",
            # Its folder is no place to import from, so it is told where its own modules are
            "PYTHONPATH": os.pathsep.join([str(SOURCES), *_places(os.environ.get("PYTHONPATH", ""))]),
            "PYTHONSAFEPATH": "1",
        }
        if processes > 1:
            environment["GLOO_SOCKET_IFNAME"] = LOOPBACK  # a host's own name may lead nowhere
        folder.mkdir(parents=True, exist_ok=True)
        options = ["--device", device, "--threads", str(threads), *(["--cache", str(cache)] if cache else [])]
        self._process = subprocess.Popen(
            [*_launcher(processes), "-m", module, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=folder,
            start_new_session=True,  # a Ctrl-C at the terminal is the supervisor's to hand down
        )
        self._bound(psutil.Process(self.pid), RLIMIT_CORE=0, RLIMIT_FSIZE=MAX_FILE_BYTES, RLIMIT_NOFILE=MAX_OPEN_FILES)
        self._memory_is_bound = False
        threading.Thread(target=self._read_reports, name="engine-reports", daemon=True).start()
        threading.Thread(target=self._read_log, name="engine-log", daemon=True).start()
        self.last_used = time.monotonic()
        self.first_rss_bytes = 0  # after its first job

    def wait_until_ready(self) -> Ready:
        """What the engine says of itself and its device, once. Raises EngineDied, also when it takes too long."""
        first = self.read(START_TIMEOUT_S)
        if not isinstance(first, Ready):
            self.kill()
            raise EngineDied(f"the engine did not become ready within {START_TIMEOUT_S:.0f} s")
        return first

    @property
    def pid(self) -> int:
        return self._process.pid

    def alive(self) -> bool:
        return self._process.poll() is None

    def rss_bytes(self) -> int:
        """Of the largest of its processes."""
        sizes = [0]
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                sizes.append(process.memory_info().rss)
        return max(sizes)

    def _processes(self) -> list[psutil.Process]:
        """The engine and whatever it started."""
        try:
            first = psutil.Process(self.pid)
            return [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def bound_memory(self, memory_bytes: int, mapped_bytes: int) -> None:
        """Let the engine map so much more than it does now, once: for a base on a CPU, whose memory is everybody's.
        What goes beyond fails in the engine, which knows what to do, and not in whichever process the kernel picks.

        `mapped_bytes`: of the base's files, which take address space while they are read, and no memory.
        """
        if self._memory_is_bound:
            return
        self._memory_is_bound = True
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                mapped = process.memory_info().vms + mapped_bytes
                self._bound(process, RLIMIT_AS=mapped + memory_bytes + RESERVED_BYTES)

    @staticmethod
    def _bound(process: psutil.Process, **most: int) -> None:
        """Soft and hard, so that the process cannot raise it; what is lower already stays. Linux alone lets others'
        limits be set."""
        if not psutil.LINUX:
            return
        with suppress(psutil.NoSuchProcess):
            for name, value in most.items():
                number = getattr(psutil, name)
                _, hard = process.rlimit(number)
                least = value if hard == psutil.RLIM_INFINITY else min(value, hard)
                process.rlimit(number, (least, least))

    def send(self, command: Command) -> None:
        """Raises `EngineDied` when nobody reads any more."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(command.model_dump_json().encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise EngineDied(self._how_it_ended()) from error

    def read(self, timeout_s: float) -> Report | None:
        """The next report; None after `timeout_s` without one."""
        try:
            report = self._reports.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if report is None:
            self._reports.put(None)  # the end stays the end for the next reader
            raise EngineDied(self._how_it_ended())
        return report

    def log_to(self, path: Path) -> None:
        """From now on the engine's log goes to `path`."""
        with self._log_lock:
            self._log.close()
            self._log = path.open("ab", buffering=0)

    def end(self, grace_s: float = 5.0) -> None:
        """Ask it to exit, then insist."""
        try:
            self.send(Exit())
            self._process.wait(grace_s)
        except (EngineDied, subprocess.TimeoutExpired):
            pass
        self.kill()

    def kill(self) -> None:
        """End the engine and whatever it started, now."""
        self._kill_processes()
        self._process.wait()
        assert self._process.stdin is not None
        with suppress(OSError):  # bytes that nobody will read
            self._process.stdin.close()

    def _kill_processes(self) -> None:
        # torchrun gives each of its processes a group of its own; one that it leaves behind ends with our pipe
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _how_it_ended(self) -> str:
        code = self._process.wait()
        if code < 0:
            return f"the engine was ended by {signal.Signals(-code).name}"
        return f"the engine ended with exit code {code}"

    def _read_reports(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                self._reports.put(parse_report.validate_json(line))
            except ValidationError as error:
                log.error("engine_report_not_understood", line=line[:500].decode(errors="replace"), error=str(error))
                break  # a gap in the reports is worse than an end: the attempt is tried again
        self._reports.put(None)
        if self.alive():
            self._kill_processes()

    def _read_log(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            with self._log_lock:
                if not self._log.closed and self._log.tell() < MAX_LOG_BYTES:
                    with suppress(OSError):  # a full disk: an engine whose lines nobody takes would stand still
                        self._log.write(line)
