"""One job in two processes under torchrun, as the runner starts it: equal to one process, stopped and resumed, and
gone with its parent's pipe."""

from __future__ import annotations

import time
from collections.abc import Iterator
from multiprocessing import Queue, get_context
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed as dist
from pydantic import BaseModel
from safetensors.torch import load_file

from core.protocol import Failed, Started, Step, Stop, Stopped, Train, Trained, WorkFolder
from tests.engine.conftest import MakeWork
from tests.engine.test_train import losses, next_attempt, of_type, run
from worker.engine.out_of_memory import AnyOutOfMemory
from worker.engine.parallel import World
from worker.engine.resident import Resident
from worker.engine_process import EngineProcess


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[EngineProcess]:
    engine = EngineProcess(device="cpu", threads=1, log_file=tmp_path / "engine.log", folder=tmp_path, processes=2)
    engine.wait_until_ready()
    yield engine
    engine.kill()


def job(engine: EngineProcess, work: WorkFolder, stop_after: int | None = None) -> list[BaseModel]:
    engine.send(Train(folder=str(work.root)))
    reports: list[BaseModel] = []
    while not reports or not isinstance(reports[-1], Trained | Stopped | Failed):
        report = engine.read(60)
        assert report is not None
        reports.append(report)
        if isinstance(report, Step) and report.step == stop_after:
            engine.send(Stop())
    return reports


def test_two_processes_are_one(pair: EngineProcess, make_work: MakeWork) -> None:
    alone = run(Resident(), make_work("alone", dropout=0.0))
    together = job(pair, make_work("together", dropout=0.0))
    assert of_type(Trained, together), together[-1]
    for own, other in zip(losses(together), losses(alone), strict=True):
        assert [value is None for value in own] == [value is None for value in other]
        assert [*filter(None, own)] == pytest.approx([*filter(None, other)], rel=1e-3)
    adapters = [Path(of_type(Trained, each)[0].folder) / "adapter_model.safetensors" for each in (together, alone)]
    weights, expected = (load_file(path) for path in adapters)
    for name, value in weights.items():
        assert torch.allclose(value, expected[name], rtol=1e-2, atol=1e-4), name

    # With dropout, the processes' random states differ; still a resumed run is the uninterrupted one
    whole = job(pair, make_work("whole"))
    parts = make_work("parts", snapshot_interval_s=1e9)
    first = job(pair, parts, stop_after=4)
    assert isinstance(first[-1], Stopped)
    stopped_at = first[-1].step
    next_attempt(parts)
    second = job(pair, parts)
    assert of_type(Started, second)[0].resumed_step == stopped_at >= 4
    assert losses(first) + losses(second) == losses(whole)
    assert of_type(Trained, second)[0].adapter_sha256 == of_type(Trained, whole)[0].adapter_sha256

    # A user's mistake leaves both processes ready for the next job
    failed = job(pair, make_work("failing", target_modules=("no_such",)))
    assert isinstance(failed[-1], Failed)
    assert failed[-1].kind == "user"
    assert isinstance(job(pair, make_work("after", epochs=1))[-1], Trained)

    processes = [psutil.Process(pair.pid), *psutil.Process(pair.pid).children(recursive=True)]
    assert len(processes) >= 3
    pair.kill()
    deadline = time.monotonic() + 5
    while any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes):
        assert time.monotonic() < deadline, "a process outlived its engine"
        time.sleep(0.05)


def _without_memory(rank: int, store: str, told: Queue[tuple[int, int, str]]) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    world = World(rank, 2)

    def run() -> int:
        if rank:
            raise torch.OutOfMemoryError("no memory here")
        return 7

    fine = world.all_or_none(lambda: rank)
    try:
        world.all_or_none(run)
    except AnyOutOfMemory as error:
        told.put((rank, fine, str(error)))
    dist.destroy_process_group()


def test_where_one_process_has_no_memory_all_say_so(tmp_path: Path) -> None:
    told: Queue[tuple[int, int, str]] = get_context("spawn").Queue()
    torch.multiprocessing.spawn(_without_memory, (str(tmp_path / "store"), told), nprocs=2)
    said = sorted(told.get(timeout=60) for _ in range(2))
    assert said == [(0, 0, "another process of this job has not enough memory"), (1, 1, "no memory here")]


def test_every_unit_is_trained_by_exactly_one_process() -> None:
    lengths = [7, 300, 12, 12, 90, 1, 40]
    shares = [World(rank, 3).share(lengths) for rank in range(3)]
    assert sorted(i for share in shares for i in share) == list(range(len(lengths)))
    assert max(sum(lengths[i] for i in share) for share in shares) == 300
    assert World(1, 2).share([5]) == []
