"""The programs that the demo starts beside itself: the making of the base, the service, and the check with PEFT.

Each is a command, as a user would type it; none outlives the demo, however that ends.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

import core
from core.settings import PREFIX

CODE = Path(core.__file__).parent.parent  # where the packages lie
LEASH = Path(__file__).with_name("leash.py")
READY_S = 120.0
STOP_S = 15.0
_POLL_S = 0.2
_STEP = re.compile(r"step (\d+)/(\d+)")


class DemoFailed(Exception):
    """Which step went wrong, why, and where to look."""


@dataclass(frozen=True)
class Service:
    """A service that answers."""

    address: str
    key: str
    log: Path


def _environment() -> dict[str, str]:
    """Ours without what configures another service: the demo runs on the embedded defaults, and asks no hub."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return {**kept, "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1"}


def _command(*words: str) -> list[str]:
    """A Python program of ours that the kernel ends with this process (cli/leash.py)."""
    return [sys.executable, str(LEASH), str(os.getpid()), sys.executable, *words]


def make_base(folder: Path, step: Callable[[int, int], None]) -> None:
    """Run `python -m worker.demo_base`; `step` hears (done, of all)."""
    command = _command("-m", "worker.demo_base", str(folder))
    log = folder.parent / f"{folder.name}.log"
    folder.parent.mkdir(parents=True, exist_ok=True)
    # stderr to a file: a pipe that nobody reads fills up and stops the writer
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command, cwd=CODE, env=_environment(), stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            if found := _STEP.match(line):
                step(int(found[1]), int(found[2]))
    if process.returncode:
        raise DemoFailed(f"the base model could not be made (exit code {process.returncode}):\n{_tail(log)}")
    log.unlink()


@contextmanager
def running_service(data: Path) -> Generator[Service]:
    """`attune up` on free ports over the folder `data`, ready; stopped in the end, with all that it started."""
    port, serve_port = _free_ports(2)
    flags = ("--data", str(data), "--port", str(port), "--serve-port", str(serve_port))
    address = f"http://127.0.0.1:{port}"
    log = data / "up.log"
    with log.open("w") as output:
        # a session of its own: Ctrl-C reaches the demo alone, which then stops the service in order
        process = subprocess.Popen(
            _command("-m", "cli.main", "up", *flags),
            cwd=CODE,
            env=_environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        _wait_until_ready(process, address, log)
        yield Service(address, (data / "operator-key").read_text().strip(), log)
    except BaseException:
        _stop(process)  # what went wrong first is what is told
        raise
    code = _stop(process)
    if code:
        raise DemoFailed(f"the service did not stop as it should (exit code {code}):\n{_tail(log)}")


def _wait_until_ready(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise DemoFailed(f"the service ended while it started (exit code {process.returncode}):\n{_tail(log)}")
        try:
            if httpx.get(f"{address}/readyz", trust_env=False).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(_POLL_S)
    raise DemoFailed(f"the service was not ready after {READY_S:.0f} s:\n{_tail(log)}")


def _stop(process: subprocess.Popen[bytes]) -> int:
    """Its exit code, after it has been asked to stop, or killed where it does not."""
    process.terminate()
    try:
        return process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def answers_of_peft(base: Path, adapter: Path, messages: Sequence[str]) -> list[str]:
    """What transformers and PEFT alone answer with the downloaded adapter (`python -m worker.demo_peft`)."""
    checked = subprocess.run(
        _command("-m", "worker.demo_peft", str(base), str(adapter)),
        cwd=CODE,
        env=_environment(),
        input=json.dumps(list(messages)),
        capture_output=True,
        text=True,
        check=False,
    )
    if checked.returncode:
        raise DemoFailed(f"PEFT could not load the downloaded adapter:\n{checked.stderr[-2000:].strip()}")
    answers: list[str] = json.loads(checked.stdout)
    return answers


def place_for(folder: Path) -> Path:
    """An empty folder in the place of an older one."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _free_ports(count: int) -> list[int]:
    """Held all at once, so that they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _tail(log: Path) -> str:
    return f"{log.read_text(errors='replace')[-2000:].strip()}\n(all of it: {log})"
