"""The peak that a run reports is its own: above the idle engine, and no job's before it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from core.protocol import Started, Step, Trained
from core.spec import Execution
from tests.engine.conftest import MakeWork
from tests.engine.test_bounds import job
from tests.engine.test_train import of_type
from worker.engine import peak_memory
from worker.engine.parallel import ALONE, World
from worker.engine.peak_memory import PeakMemory, resident_bytes
from worker.engine_process import EngineProcess

CPU = torch.device("cpu")
MIB = 1024**2
LARGE, NOISE = 96 * MIB, 32 * MIB


def touch(size: int) -> None:
    torch.ones(size, dtype=torch.uint8)  # held no longer than this line


def test_it_is_what_was_held_since_it_began_even_where_it_is_given_back() -> None:
    touch(2 * LARGE)
    peak = PeakMemory(CPU, resident_bytes("VmRSS"), ALONE)
    before = peak.so_far()
    assert before is not None
    assert before < NOISE
    touch(LARGE)
    held = peak.so_far()
    assert held is not None
    assert LARGE - NOISE < held < LARGE + NOISE
    assert peak.at_the_end() == held
    peak.restart()
    again = peak.so_far()
    assert again is not None
    assert again < NOISE


def test_what_cannot_be_measured_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert PeakMemory(CPU, resident_bytes("VmRSS"), World(0, 2)).so_far() is None  # the other process's is not known
    monkeypatch.setattr(peak_memory, "_CLEAR", Path("/proc/self/no_such_file"))
    refused = PeakMemory(CPU, resident_bytes("VmRSS"), ALONE)
    assert (refused.so_far(), refused.at_the_end()) == (None, None)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """A program of its own: what is free in the heap of this one would hide what a run takes."""
    folder = tmp_path_factory.mktemp("engine")
    running = EngineProcess(device="cpu", threads=1, log_file=folder / "log", folder=folder / "stands")
    running.wait_until_ready()
    yield running
    running.kill()


def test_a_run_tells_its_plan_and_its_peak(engine: EngineProcess, make_work: MakeWork) -> None:
    reports = job(engine, make_work(epochs=1))
    (started,), (trained,) = of_type(Started, reports), of_type(Trained, reports)
    assert started.device == "cpu"
    assert started.device_name
    assert set(started.memory_bytes) >= {"weights", "adapter", "optimizer", "activations", "runtime"}
    peaks = [step.peak_memory_bytes for step in of_type(Step, reports)] + [trained.peak_memory_bytes]
    assert all(peak is not None for peak in peaks)
    assert peaks == sorted(peak or 0 for peak in peaks)
    assert 0 < (trained.peak_memory_bytes or 0) < sum(started.memory_bytes.values()) + LARGE


def test_packs_of_every_length_take_no_more_than_the_first_did(engine: EngineProcess, make_work: MakeWork) -> None:
    """In bfloat16: the kernels made for a length that is never met again are let go."""
    execution = Execution(precision="bfloat16", micro_tokens=2048, threads=1)
    work = make_work(examples=400, validation=0, epochs=2, batch_size=16, dropout=0.0, execution=execution)
    steps = of_type(Step, job(engine, work))
    assert len({step.tokens for step in steps}) > len(steps) / 2
    peaks = [step.peak_memory_bytes or 0 for step in steps]
    assert peaks[0] > 0
    assert peaks[-1] - peaks[9] < NOISE
