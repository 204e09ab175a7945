"""The servers of a deployment, to be harmed from outside: Postgres and Redis ended and started again, an S3 server
that answers as it is told, and a disk that can be filled.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.live import ROOT
from tests.services import S3, end_with_parent, free_port, port_answers, program

_CLONE_NEWNS = 0x00020000  # <linux/sched.h>
DISK_BYTES = 512 * 1024 * 1024
FILL_EVERY_S = 0.02
PAGE_BYTES = 4096


class Server:
    """A server that was started elsewhere on `port`: ended here, and started again by the same command, which it is
    asked for unless it is given (Redis shows another)."""

    def __init__(self, port: int, command: list[str] | None = None) -> None:
        self._port = port
        process = _listener(port)
        self._command = command or process.cmdline()
        self._uid = process.uids().real
        self._folder = process.cwd()
        self._process = process
        self._again: subprocess.Popen[bytes] | None = None

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Returns when it has gone."""
        self._process.send_signal(number)
        if self._again is not None:
            self._again.wait()
        with suppress(psutil.NoSuchProcess):
            self._process.wait(20)

    def start(self) -> None:
        """Returns when the port answers."""
        other = self._uid != os.geteuid()
        self._again = subprocess.Popen(
            self._command,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=self._uid if other else None,
            group=self._uid if other else None,
            extra_groups=[] if other else None,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
        self._process = psutil.Process(self._again.pid)
        deadline = time.monotonic() + 30.0
        while not port_answers(self._port):
            assert time.monotonic() < deadline, f"{self._command[0]} does not come back"
            time.sleep(0.05)

    def close(self) -> None:
        """End the one that was started here."""
        if self._again is not None and self._again.poll() is None:
            self._again.send_signal(signal.SIGINT)  # Postgres: a fast shutdown
            try:
                self._again.wait(20)
            except subprocess.TimeoutExpired:
                self._again.kill()


def _listener(port: int) -> psutil.Process:
    """The first of the processes that hold the listening socket: Postgres hands it down to its children."""
    pids = {
        one.pid
        for one in psutil.net_connections("tcp")
        if one.pid and one.status == psutil.CONN_LISTEN and one.laddr and one.laddr[1] == port
    }
    found = [psutil.Process(pid) for pid in pids]
    return next(process for process in found if process.ppid() not in pids)


class Store:
    """An S3 server that can be told to answer a share of requests wrongly (tests/faults/s3_server.py)."""

    def __init__(self, server: S3, orders: Path) -> None:
        self.server = server
        self._orders = orders
        self.order("none", 0.0)

    @property
    def hits(self) -> int:
        """Answers that were spoilt so far."""
        hits = self._orders.with_suffix(".hits")
        return hits.stat().st_size if hits.exists() else 0

    @contextmanager
    def answering(self, fault: str, share: float) -> Iterator[None]:
        """`fault`: slow_down (503), full (507 to puts), truncated or corrupted (bodies of gets)."""
        self.order(fault, share)
        try:
            yield
        finally:
            self.order("none", 0.0)

    def order(self, fault: str, share: float) -> None:
        new = self._orders.with_suffix(".new")
        new.write_text(json.dumps({"fault": fault, "share": share}))
        new.replace(self._orders)


@contextmanager
def store(folder: Path) -> Iterator[Store]:
    server, orders = S3(free_port()), folder / "s3-orders"
    made = Store(server, orders)
    command = [sys.executable, "-m", "tests.faults.s3_server", str(server.port), str(orders)]
    with program(command, log=folder / "s3.log", ready=lambda: port_answers(server.port), cwd=ROOT):
        yield made


def own_mounts() -> bool:
    """Give this process mounts that nobody else sees and that go with it. False where it may not (no root)."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:
        return False
    return subprocess.run(["mount", "--make-rprivate", "/"], capture_output=True, check=False).returncode == 0


class Disk:
    """A small file system at `folder`."""

    def __init__(self, folder: Path, size_bytes: int = DISK_BYTES) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        options = f"size={size_bytes},mode=0777"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "attune-faults", folder], check=True)

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", self.folder], check=False)

    @contextmanager
    def full(self) -> Iterator[None]:
        """Not a byte is left, and what is given free meanwhile is taken again."""
        over, filled = threading.Event(), threading.Event()
        ballast = self.folder / "ballast"

        def fill() -> None:
            with ballast.open("wb") as file:
                size = 0
                while not over.wait(FILL_EVERY_S if filled.is_set() else 0.0):
                    piece = self._free_bytes()
                    while piece >= PAGE_BYTES:
                        try:
                            os.posix_fallocate(file.fileno(), size, piece)
                            size += piece
                        except OSError:  # others write as well; the whole piece was given back
                            piece //= 2
                        else:
                            piece = self._free_bytes()
                    filled.set()

        thread = threading.Thread(target=fill, name="ballast", daemon=True)
        thread.start()
        filled.wait()
        try:
            yield
        finally:
            over.set()
            thread.join()
            ballast.unlink()

    def _free_bytes(self) -> int:
        status = os.statvfs(self.folder)
        return status.f_bavail * status.f_frsize
