"""One job in two processes under torchrun, as the runner starts it: equal to one process, stopped and resumed, and
gone with its parent's pipe."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from pydantic import BaseModel
from safetensors.torch import load_file

from core.protocol import Failed, Message, Started, Step, Stop, Stopped, Train, Trained, WorkFolder
from tests.engine.conftest import EXECUTION, MakeWork
from tests.engine.test_train import assert_same_steps, losses, next_attempt, of_type, run
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


@pytest.mark.skipif(not psutil.LINUX, reason="another process's limits are set on Linux alone")
def test_where_one_process_has_no_memory_both_go_down_the_ladder(pair: EngineProcess, make_work: MakeWork) -> None:
    processes = psutil.Process(pair.pid).children(recursive=True)
    (second,) = [process for process in processes if process.environ().get("RANK") == "1"]
    choices = {"examples": 200, "validation": 0, "batch_size": 200, "dropout": 0.0, "epochs": 6}
    expected = job(pair, make_work("lower", execution=EXECUTION, **choices))
    allowed = second.memory_info().vms + 100 * 1024**2
    large = make_work(execution=EXECUTION.model_copy(update={"micro_tokens": 16384}), **choices)
    pair.send(Train(folder=str(large.root)))
    reports: list[BaseModel] = []
    while not reports or not isinstance(reports[-1], Trained | Failed):
        report = pair.read(60)
        assert report is not None
        reports.append(report)
        if isinstance(report, Step) and report.step == 2:
            second.rlimit(psutil.RLIMIT_AS, (allowed, allowed))
    assert isinstance(reports[-1], Trained), reports[-1]
    assert any(told.message.startswith("Memory ran out after step") for told in of_type(Message, reports))
    assert_same_steps(reports, expected)


def test_every_unit_is_trained_by_exactly_one_process() -> None:
    lengths = [7, 300, 12, 12, 90, 1, 40]
    shares = [World(rank, 3).share(lengths) for rank in range(3)]
    assert sorted(i for share in shares for i in share) == list(range(len(lengths)))
    assert max(sum(lengths[i] for i in share) for share in shares) == 300
    assert World(1, 2).share([5]) == []
