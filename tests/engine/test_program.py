"""The engine as a program: its protocol, its end with stdin, and a run that survives kill -9 bit for bit."""

from __future__ import annotations

import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from core.protocol import (
    Exit,
    Failed,
    Proof,
    Prove,
    Ready,
    SnapshotSaved,
    Started,
    Step,
    Stop,
    Stopped,
    Train,
    Trained,
    WorkFolder,
    parse_report,
)
from tests.engine.conftest import MakeWork
from tests.engine.test_train import next_attempt

LIMIT_S = 60.0
KILLS = 2


class Engine:
    """A running engine program. Every line of its stdout must be a report."""

    def __init__(self, *program: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *(program or ("-m", "worker.engine")), "--threads", "1", "--device", "cpu"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.reports: queue.SimpleQueue[object] = queue.SimpleQueue()
        self.log = bytearray()
        threading.Thread(target=self._read_reports, daemon=True).start()
        threading.Thread(target=self._read_log, daemon=True).start()

    def _read_reports(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.reports.put(parse_report.validate_json(line))
        self.reports.put(None)

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log += line

    def send(self, command: Train | Prove | Stop | Exit) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command.model_dump_json().encode() + b"\n")
        self.process.stdin.flush()

    def train(self, work: WorkFolder) -> None:
        self.send(Train(folder=str(work.root)))

    def until(self, *kinds: type) -> list[object]:
        """Reports up to and with the first of one of `kinds`; fails at the end of the engine."""
        seen: list[object] = []
        while True:
            report = self.reports.get(timeout=LIMIT_S)
            assert report is not None, self.log.decode()[-3000:]
            seen.append(report)
            if isinstance(report, kinds):
                return seen


@contextmanager
def engine(*program: str) -> Iterator[Engine]:
    running = Engine(*program)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()


def losses(reports: list[object]) -> dict[int, tuple[float, float | None]]:
    return {step.step: (step.train_loss, step.full_valid_loss) for step in reports if isinstance(step, Step)}


def test_one_warm_engine_trains_stops_fails_proves_and_exits(make_work: MakeWork) -> None:
    with engine() as running:
        ready = running.until(Ready)[0]
        assert isinstance(ready, Ready)
        assert ready.device == "cpu"
        assert ready.memory_bytes > 0
        assert {"torch", "transformers", "bitsandbytes"} <= ready.versions.keys()

        running.train(make_work("whole"))
        whole = running.until(Trained, Failed)
        assert isinstance(whole[-1], Trained), whole[-1]

        stopped = make_work("stopped", epochs=50)
        running.train(stopped)
        running.until(Step)
        running.send(Stop())
        assert isinstance(running.until(Stopped)[-1], Stopped)
        running.send(Stop())  # nobody runs: without effect on the next job

        faulty = make_work("faulty")
        faulty.training.write_text('{"text": "fine"}\n{"messages": []}\n')
        running.train(faulty)
        failed = running.until(Failed)[-1]
        assert isinstance(failed, Failed)
        assert failed.kind == "user"
        assert "line 2" in failed.message

        again = make_work("again")
        running.train(again)
        reports = running.until(Trained, Failed)
        trained = reports[-1]
        assert isinstance(trained, Trained)
        assert trained.adapter_sha256 == whole[-1].adapter_sha256
        assert losses(reports) == losses(whole)

        again.adapter.rename(again.published)
        (again.root / "trained.json").write_text(trained.model_dump_json())
        running.send(Prove(folder=str(again.root)))
        proof = running.until(Proof, Failed)[-1]
        assert isinstance(proof, Proof), proof
        named = {check.name: check for check in proof.checks}
        for name in ("loads", "every_tensor_mapped", "changes_logits", "validation_loss", "template_hash"):
            assert named[name].passed, named[name]

        running.send(Exit())
        assert running.process.wait(LIMIT_S) == 0


def test_killed_at_random_moments_it_ends_with_the_same_bits(make_work: MakeWork) -> None:
    """kill -9 anywhere in a run with dropout, validation and several epochs, each time a new engine. The machine
    chooses the execution, and each snapshot hands it to the next attempt."""
    generator = random.Random(os.urandom(8))
    work = make_work("killed", epochs=12, examples=30, execution=None)
    seen: dict[int, tuple[float, float | None]] = {}
    resumed: list[int] = []
    with engine() as running:
        running.until(Ready)
        running.train(make_work("whole", epochs=12, examples=30, execution=None))
        whole = running.until(Trained, Failed)
        # The same engine takes the first part; only a snapshot on disk is left of it
        running.train(work)
        kills = 0
        current = running
        while True:
            reports = current.until(SnapshotSaved, Trained, Failed)
            if kills < KILLS and isinstance(reports[-1], SnapshotSaved):
                time.sleep(generator.uniform(0, 0.4))
                current.process.send_signal(signal.SIGKILL)
                current.process.wait()
                while (late := current.reports.get(timeout=LIMIT_S)) is not None:
                    reports.append(late)
                kills += 1
            _compare(reports, seen)
            resumed += [report.resumed_step for report in reports if isinstance(report, Started)]
            if isinstance(reports[-1], Trained | Failed):
                break
            if current.process.poll() is not None:
                next_attempt(work)
                current = Engine()
                current.until(Ready)
                current.train(work)
    current.process.kill()
    current.process.wait()
    assert kills == KILLS
    assert any(resumed), "no kill landed in a run"
    assert isinstance(reports[-1], Trained), reports[-1]
    assert isinstance(whole[-1], Trained)
    assert reports[-1].adapter_sha256 == whole[-1].adapter_sha256
    assert seen == losses(whole)


def _compare(reports: list[object], seen: dict[int, tuple[float, float | None]]) -> None:
    """A step that was repeated after a kill has the loss that it had."""
    for step, values in losses(reports).items():
        assert seen.setdefault(step, values) == values


# Wraps the program so that both a Python and a C writer of descriptor 1 are at work while it imports
NOISY = """
import builtins, os, runpy, sys
real = builtins.__import__
def noisy(name, *rest, **named):
    if name == "transformers":
        print("python noise"); os.write(1, b"C noise\\n")
    return real(name, *rest, **named)
builtins.__import__ = noisy
sys.argv = ["worker.engine", *sys.argv[1:]]
runpy.run_module("worker.engine", run_name="__main__")
"""


def test_noise_stays_out_of_the_protocol_and_a_closed_stdin_ends_the_training(make_work: MakeWork) -> None:
    with engine("-u", "-c", NOISY) as running:
        running.until(Ready)
        running.train(make_work("long", epochs=50, examples=60))
        running.until(Step)
        assert b"python noise" in running.log
        assert b"C noise" in running.log
        _close_and_wait(running)


def test_a_stdin_closed_at_once_ends_the_program_before_it_has_loaded() -> None:
    with engine() as running:
        _close_and_wait(running)


def _close_and_wait(running: Engine) -> None:
    assert running.process.stdin is not None
    running.process.stdin.close()
    begun = time.monotonic()
    assert running.process.wait(LIMIT_S) == 0
    assert time.monotonic() - begun < 5.0
