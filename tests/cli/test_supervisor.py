"""The supervisor with real programs: restart, prefix, stop in time, and nothing left behind, even after kill -9."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from cli.supervisor import KILL_AFTER_S

# A service of stand-ins: argv is the limit of a stop in seconds, then NAME=PYTHON-CODE, one a program.
_SUPERVISE = """
import os, signal, sys
from pathlib import Path
from cli import supervisor as module
from cli.prefixed import PrefixedLines
from cli.supervisor import Program, Supervisor
module.KILL_AFTER_S = float(sys.argv[1])
pairs = [argument.split("=", 1) for argument in sys.argv[2:]]
supervisor = Supervisor(PrefixedLines(6))
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: supervisor.stop())
supervisor.run([
    Program(name, (sys.executable, "-u", "-c", code), dict(os.environ), Path.cwd()) for name, code in pairs
])
print("all ended", flush=True)
"""
_KILL_AFTER_S = 1.5
_STEADY = "import os, time; print('pid', os.getpid())\nwhile True: time.sleep(1)"
_DEAF = (
    "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('pid', os.getpid())\ntime.sleep(60)"
)
# ends in order, and has a child in a session of its own that does not notice, as an engine could
_PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
print("pid", os.getpid(), "child", child.pid)
time.sleep(60)
"""


class Service:
    """A running supervisor and the lines it has written."""

    def __init__(self, *programs: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SUPERVISE, str(_KILL_AFTER_S), *programs],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def wait_for(self, pattern: str, count: int = 1) -> list[re.Match[str]]:
        """The first `count` lines that match, in order."""

        def found() -> list[re.Match[str]]:
            return [match for line in list(self.lines) if (match := re.search(pattern, line))]

        until(lambda: len(found()) >= count, lambda: f"{pattern!r} in {self.lines}")
        return found()[:count]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> float:
        """Seconds from the signal to the end."""
        began = time.monotonic()
        self.process.send_signal(number)
        assert self.process.wait(15) == 0, self.lines
        return time.monotonic() - began


def until(true: Callable[[], bool], what: Callable[[], str], limit_s: float = 10.0) -> None:
    deadline = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < deadline, f"not within {limit_s} s: {what()}"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def start() -> Iterator[Callable[..., Service]]:
    services: list[Service] = []

    def _start(*programs: str) -> Service:
        services.append(Service(*programs))
        return services[-1]

    yield _start
    for service in services:
        service.process.kill()
        service.process.wait()


def test_lines_carry_the_name_of_their_program(start: Callable[..., Service]) -> None:
    service = start(f"web={_STEADY}", f"worker={_STEADY}")
    service.wait_for(r"^web    \| pid \d+$")
    service.wait_for(r"^worker \| pid \d+$")


def test_a_program_that_dies_is_started_again_with_backoff(start: Callable[..., Service]) -> None:
    service = start(f"web={_STEADY}", f"worker={_STEADY}")
    for life in range(1, 4):
        pid = int(service.wait_for(r"web .*pid (\d+)", life)[-1][1])
        os.kill(pid, signal.SIGKILL)
    backoffs = [match[1] for match in service.wait_for(r"web was ended by signal 9 .* again in ([\d.]+) s", 3)]
    assert backoffs == ["0.2", "0.4", "0.8"]
    service.wait_for(r"web .*pid (\d+)", 4)
    assert len(service.wait_for(r"worker .*pid")) == 1, "the other program is left alone"


def test_an_exit_code_is_named(start: Callable[..., Service]) -> None:
    service = start("web=raise SystemExit(3)")
    service.wait_for(r"web ended with exit code 3; starting it again in 0\.2 s")


def test_what_a_dead_program_left_behind_is_ended(start: Callable[..., Service]) -> None:
    service = start(f"worker={_PARENT}")
    match = service.wait_for(r"pid (\d+) child (\d+)")[0]
    os.kill(int(match[1]), signal.SIGKILL)
    until(lambda: gone(int(match[2])), lambda: "the child of a killed program is gone")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_everything(start: Callable[..., Service], number: signal.Signals) -> None:
    service = start(f"web={_STEADY}", f"worker={_PARENT}")
    web = int(service.wait_for(r"web .*pid (\d+)")[0][1])
    worker, child = map(int, service.wait_for(r"pid (\d+) child (\d+)")[0].groups())
    assert service.stop(number) < 2
    assert all(map(gone, (web, worker, child)))
    service.wait_for("^all ended$")


def test_a_program_that_does_not_hear_is_killed_in_time(start: Callable[..., Service]) -> None:
    assert KILL_AFTER_S < 9.5, "a second is left of the ten that are promised"
    service = start(f"web={_DEAF}")
    pid = int(service.wait_for(r"pid (\d+)")[0][1])
    assert _KILL_AFTER_S <= service.stop() < _KILL_AFTER_S + 1
    assert gone(pid)
    service.wait_for("web did not stop in time")


def test_a_second_signal_ends_it_at_once(start: Callable[..., Service]) -> None:
    service = start(f"web={_DEAF}")
    pid = int(service.wait_for(r"pid (\d+)")[0][1])
    service.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert service.stop(signal.SIGINT) < _KILL_AFTER_S - 0.5
    assert gone(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_killing_the_supervisor_ends_its_programs(start: Callable[..., Service]) -> None:
    service = start(f"web={_STEADY}", f"worker={_DEAF}")
    pids = [int(service.wait_for(rf"{name} .*pid (\d+)")[0][1]) for name in ("web", "worker")]
    service.process.kill()
    until(lambda: all(map(gone, pids)), lambda: "the programs of a killed supervisor are gone", limit_s=2)


def test_a_reader_that_leaves_stops_nothing(tmp_path: Path) -> None:
    """As `attune up | head -1`: the lines have nowhere to go, and the programs go on."""
    beats = tmp_path / "beats"
    code = f"import time\nwhile True: open({str(beats)!r}, 'a').write('.'); print('x' * 100); time.sleep(0.01)"
    process = subprocess.Popen([sys.executable, "-c", _SUPERVISE, "9", f"web={code}"], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        seen = beats.stat().st_size
        until(lambda: beats.stat().st_size > seen + 50, lambda: f"more beats than {seen}")
        process.terminate()
        process.wait(30)
    finally:
        process.kill()
        process.wait()
