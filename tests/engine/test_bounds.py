"""The engine as the runner starts it: what the kernel lets it map, write and open, where it stands, what it never
sees. Short of memory it goes down the ladder, and beyond that says so and ends by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from pydantic import BaseModel

from core.protocol import Failed, Message, Started, Step, Train, Trained, WorkFolder
from core.spec import Quantization
from tests.engine.conftest import EXECUTION, MakeWork
from tests.engine.test_train import assert_same_steps, of_type
from tests.engine.tiny_base import make_base
from worker import engine_process
from worker.engine_process import EngineDied, EngineProcess

MIB = 1024**2
MEMORY_BYTES = 200 * MIB

pytestmark = pytest.mark.skipif(not psutil.LINUX, reason="another process's limits are set on Linux alone")


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EngineProcess]:
    monkeypatch.setenv("ATTUNE_S3_SECRET_ACCESS_KEY", "canary")
    monkeypatch.setattr(engine_process, "RESERVED_BYTES", 0)  # which would hide how little a tiny base needs
    running = EngineProcess(device="cpu", threads=1, log_file=tmp_path / "engine.log", folder=tmp_path / "engine")
    running.wait_until_ready()
    yield running
    running.kill()


def job(
    engine: EngineProcess, work: WorkFolder, on_report: Callable[[BaseModel], None] | None = None
) -> list[BaseModel]:
    engine.send(Train(folder=str(work.root)))
    reports: list[BaseModel] = []
    while not reports or not isinstance(reports[-1], Trained | Failed):
        report = engine.read(120)
        assert report is not None
        reports.append(report)
        if on_report is not None:
            on_report(report)
    return reports


def test_a_bound_engine_goes_down_the_ladder_and_then_says_that_memory_is_out(
    engine: EngineProcess, make_work: MakeWork, tmp_path: Path
) -> None:
    process = psutil.Process(engine.pid)
    assert process.cwd() == str(tmp_path / "engine")
    assert "canary" not in process.environ().values()
    assert process.rlimit(psutil.RLIMIT_CORE) == (0, 0)
    assert process.rlimit(psutil.RLIMIT_FSIZE)[1] == engine_process.MAX_FILE_BYTES
    assert process.rlimit(psutil.RLIMIT_NOFILE)[1] <= engine_process.MAX_OPEN_FILES

    mapped = process.memory_info().vms
    engine.bound_memory(MEMORY_BYTES, 0)
    engine.bound_memory(100 * MEMORY_BYTES, 0)  # once is all
    assert mapped < process.rlimit(psutil.RLIMIT_AS)[1] <= mapped + MEMORY_BYTES + MIB

    large = EXECUTION.model_copy(update={"micro_tokens": 16384})
    work = make_work(examples=200, validation=0, epochs=1, batch_size=200, dropout=0.0, execution=large)
    reports = job(engine, work)
    assert isinstance(reports[-1], Trained), reports[-1]
    rungs, (started,) = of_type(Message, reports), of_type(Started, reports)
    assert rungs, "memory was never short: nothing was at stake"
    assert started.execution.micro_tokens == rungs[-1].data["micro_tokens"] < 16384
    assert len(of_type(Step, reports)) == 1
    assert process.memory_info().vms <= mapped + MEMORY_BYTES + MIB

    # A base and an adapter that no rung makes small enough
    base = make_base(tmp_path / "wide", hidden=512, layers=8, ffn=2048)
    work = make_work("larger", base=base, rank=256, quantization=Quantization.NONE, execution=EXECUTION)
    failed = job(engine, work)[-1]
    assert isinstance(failed, Failed)
    assert (failed.kind, failed.code) == ("out_of_memory", "out_of_memory")
    assert "memory was not enough" in failed.message
    with pytest.raises(EngineDied, match="exit code 1"):
        engine.read(60)


def test_memory_that_goes_in_the_middle_of_a_run_leads_down_the_ladder(
    engine: EngineProcess, make_work: MakeWork
) -> None:
    process, choices = psutil.Process(engine.pid), {"examples": 400, "validation": 0, "batch_size": 400, "dropout": 0.0}
    expected = job(engine, make_work("lower", epochs=4, execution=EXECUTION, **choices))
    allowed = process.memory_info().vms + MEMORY_BYTES  # what that took, and what freed pieces are too scattered for

    def take_memory(report: BaseModel) -> None:
        if isinstance(report, Step) and report.step == 2:
            process.rlimit(psutil.RLIMIT_AS, (allowed, allowed))

    large = EXECUTION.model_copy(update={"micro_tokens": 32768})
    reports = job(engine, make_work(epochs=4, execution=large, **choices), take_memory)
    assert isinstance(reports[-1], Trained), reports[-1]
    told = [message for message in of_type(Message, reports) if message.message.startswith("Memory ran out after step")]
    assert told, "memory never ran out: nothing was at stake"
    resumed = of_type(Started, reports)[-1]
    assert resumed.resumed_step == told[-1].data["resumed_step"]
    assert resumed.execution.micro_tokens < 32768
    assert_same_steps(reports, expected)
