"""`attune up`: the whole service on this machine, every part a process of its own, until Ctrl-C.

Prepares the data folder and the database, leaves the first operator key in a file, and keeps the web side, the
workers and the server running. The parts are named here as commands only.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import httpx

import core
from cli.prefixed import PrefixedLines
from cli.supervisor import Program, Supervisor
from core.settings import PREFIX, Settings

CODE = Path(core.__file__).parent.parent  # where the packages lie
LOCK_NAME = "up.lock"
PORT_PATIENCE_S = 1.0  # a service killed a moment ago still holds its ports
GRACEFUL_WEB_S = 5  # open streams get this long at a stop
_READY_POLL_S = 0.1
_ROOT_WARNING = "You're running the worker with superuser privileges"  # as a container's only user often does


class CannotStart(Exception):
    """Why the service was not started, and what to do."""


@dataclass(frozen=True)
class Parts:
    """Which parts run here beside the web side."""

    workers: int = 1
    serve: bool = True


def run(settings: Settings, parts: Parts) -> None:
    """Run until a signal ends it. Raises CannotStart before anything was started."""
    os.umask(0o077)  # the folder holds keys, data and models: for this user alone
    data_dir = _prepare_folder(settings.data_dir)
    with _only_one(data_dir):
        _require_free_port(settings.host, settings.port, "--port")
        if parts.serve:
            _require_free_port(settings.serve_host, settings.serve_port, "--serve-port")
        programs = services(settings, parts)
        lines = PrefixedLines(max(len(program.name) for program in programs))
        supervisor = Supervisor(lines)
        _stop_on_signals(supervisor)
        for program in preparations(settings):
            code = supervisor.run_once(program)
            if code is None:
                return  # stopped meanwhile
            if code:
                raise CannotStart(f"`{' '.join(program.command[1:])}` ended with exit code {code}; see its lines above")
        threading.Thread(target=_announce, args=(settings, lines, supervisor), name="announce", daemon=True).start()
        supervisor.run(programs)
        lines.say("Attune has stopped.")


def _stop_on_signals(supervisor: Supervisor) -> None:
    def stop(_number: int, _frame: FrameType | None) -> None:
        supervisor.stop()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if (number, signal.getsignal(number)) != (signal.SIGHUP, signal.SIG_IGN):  # nohup asked to live on
            signal.signal(number, stop)


def preparations(settings: Settings) -> list[Program]:
    """What must have run before anything starts: the migrations, then the first operator key."""
    environment = _environment(settings)
    return [
        Program("setup", (sys.executable, "-m", module), environment, CODE)
        for module in ("core.migrate", "core.first_key")
    ]


def services(settings: Settings, parts: Parts) -> list[Program]:
    """The programs of the service, each with its command line and environment."""
    environment = _environment(settings)
    level = settings.log_level.lower()
    web = (
        *(sys.executable, "-m", "uvicorn", "api.app:app", "--app-dir", str(CODE)),
        *("--host", settings.host, "--port", str(settings.port), "--http", "api.http_head:BoundedHead"),
        *("--log-level", level, "--no-access-log", "--timeout-graceful-shutdown", str(GRACEFUL_WEB_S)),
    )
    # threads: a prefork child does not hear a shutdown while it works. What the worker has to say is in its own
    # log lines; of Celery's own only the errors are for an operator.
    celery_level = "debug" if level == "debug" else "error"
    worker = (
        *(
            sys.executable,
            "-W",
            f"ignore:{_ROOT_WARNING}",
            "-m",
            "celery",
            "--quiet",
            "-A",
            "worker.app",
            "worker",
            "--pool",
            "threads",
        ),
        *("--concurrency", "1", "--without-gossip", "--without-mingle", "--without-heartbeat"),
        *("--loglevel", celery_level),
    )
    # Its many threads come and go, and glibc's arena for each of them would hold what the last one needed
    programs = [Program("web", web, {**environment, "MALLOC_ARENA_MAX": "2"}, CODE)]
    for number in range(1, parts.workers + 1):
        name = "worker" if parts.workers == 1 else f"worker-{number}"
        own_name = settings.worker_name if parts.workers == 1 else f"{settings.worker_name}-{number}"
        programs.append(Program(name, worker, {**environment, "ATTUNE_WORKER_NAME": own_name}, CODE))
    if parts.serve:
        programs.append(Program("serve", (sys.executable, "-m", "worker.serve"), environment, CODE))
    return programs


def _environment(settings: Settings) -> Mapping[str, str]:
    """Ours, with the settings that flags may have changed, and paths that hold in another folder."""
    inherited = dict(os.environ)
    for name, value in inherited.items():
        if value and name.startswith(PREFIX) and name.endswith(("_FILE", "_DIR")):
            inherited[name] = str(Path(value).absolute())
    return inherited | {
        "ATTUNE_DATA_DIR": str(settings.data_dir.absolute()),
        "ATTUNE_HOST": settings.host,
        "ATTUNE_PORT": str(settings.port),
        "ATTUNE_SERVE_PORT": str(settings.serve_port),
        "ATTUNE_LOG_LEVEL": settings.log_level,
        # spinning threads of one busy process slow the others on the same cores several times
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONUNBUFFERED": "1",
    }


def _prepare_folder(data_dir: Path) -> Path:
    """Make the data folder, for its owner alone; a folder that is in use already keeps its mode."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not any(data_dir.iterdir()):
            data_dir.chmod(stat.S_IRWXU)
    except OSError as error:
        raise CannotStart(f"cannot use {data_dir} as data folder: {error.strerror}; choose another: --data") from error
    return data_dir


@contextmanager
def _only_one(data_dir: Path) -> Generator[None]:
    """Hold the folder's lock; the kernel gives it back however this process ends."""
    with (data_dir / LOCK_NAME).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            pid = lock.read().strip() or "unknown"
            raise CannotStart(
                f"another `attune up` (process {pid}) is using {data_dir.absolute()}; stop it first, "
                "or give this one a folder of its own: --data"
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _require_free_port(host: str, port: int, flag: str) -> None:
    """Raise CannotStart unless `port` can be listened on."""
    deadline = time.monotonic() + PORT_PATIENCE_S
    while True:
        try:
            address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
            with socket.socket(address[0], address[1]) as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as uvicorn does
                listener.bind(address[4])
                listener.listen(1)
            return
        except socket.gaierror as error:
            raise CannotStart(f"{host} is no address of this machine: {error.strerror}; see --host") from error
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                message = f"cannot listen on {host} port {port}: {error.strerror}; choose another with {flag}"
                raise CannotStart(message) from error
            if time.monotonic() >= deadline:
                message = f"port {port} of {host} is in use by another program; choose another with {flag}"
                raise CannotStart(message) from error
            time.sleep(0.1)


def _announce(settings: Settings, lines: PrefixedLines, supervisor: Supervisor) -> None:
    """Wait until the web side answers that it is ready, then say where everything is."""
    address = web_address(settings.host, settings.port)
    with httpx.Client(timeout=5.0, trust_env=False) as client:
        while not supervisor.stopping:
            try:
                if client.get(f"{address}/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                pass  # not listening yet, or started again just now
            time.sleep(_READY_POLL_S)
    if supervisor.stopping:
        return
    lines.say(f"Attune is ready at {address}  (API: {address}/v1)")
    if settings.dashboard and (link := _sign_in_link(address, settings.resolved_operator_key_file)):
        lines.say(f"  open:  {link}  (signs you in once, within the hour)")
    lines.say(f"  key:   {settings.resolved_operator_key_file.absolute()}")
    lines.say(f"  data:  {settings.data_dir.absolute()}")
    lines.say("  stop:  Ctrl-C")


def _sign_in_link(address: str, key_file: Path) -> str | None:
    """An address that opens the dashboard as the operator; None where the key is kept elsewhere."""
    try:
        key = key_file.read_text().strip()
        with httpx.Client(timeout=5.0, trust_env=False, headers={"Authorization": f"Bearer {key}"}) as client:
            answer = client.post(f"{address}/v1/attune/sign_in_links")
        answer.raise_for_status()
    except (OSError, httpx.HTTPError):
        return None
    return f"{address}/dashboard/enter?link={answer.json()['token']}"


def web_address(host: str, port: int) -> str:
    """Where a client on this machine reaches a service that listens on `host`."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"
