"""Training runs in this process: resume, warm reuse, stop, continued training, and what makes a run fail."""

from __future__ import annotations

import json
import resource
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from pydantic import BaseModel
from safetensors.torch import load_file, save_file

from core.errors import AttuneError
from core.protocol import (
    CheckpointSaved,
    Message,
    SnapshotFailed,
    SnapshotSaved,
    Started,
    Step,
    Stopped,
    Trained,
    TrainTask,
    WorkFolder,
)
from core.spec import Execution, Quantization
from tests.engine.conftest import EXECUTION, MakeWork, write_examples
from worker.engine.resident import Resident
from worker.engine.snapshot import Manifest
from worker.engine.train import train
from worker.engine.work import as_failure

R = TypeVar("R", bound=BaseModel)


@pytest.fixture
def resident() -> Resident:
    return Resident()


def run(
    resident: Resident, work: WorkFolder, on_report: Callable[[BaseModel, threading.Event], None] | None = None
) -> list[BaseModel]:
    reports: list[BaseModel] = []
    stop = threading.Event()

    def report(item: BaseModel) -> None:
        reports.append(item)
        if on_report is not None:
            on_report(item, stop)

    train(resident, work, report, stop, threads=1)
    return reports


def of_type(kind: type[R], reports: list[BaseModel]) -> list[R]:
    return [report for report in reports if isinstance(report, kind)]


def losses(reports: list[BaseModel]) -> list[tuple[int, float, float, float | None, float | None]]:
    return [
        (step.step, step.train_loss, step.grad_norm, step.valid_loss, step.full_valid_loss)
        for step in of_type(Step, reports)
    ]


def assert_same_steps(reports: list[BaseModel], expected: list[BaseModel]) -> None:
    """The same examples in every step, and the same losses but for rounding, however often a step was made."""
    same = {step.step: step for step in of_type(Step, expected)}
    made = of_type(Step, reports)
    assert {step.step for step in made} == same.keys()
    for step in made:
        assert step.tokens == same[step.step].tokens
        assert step.train_loss == pytest.approx(same[step.step].train_loss, rel=1e-3)


def stop_after(step: int) -> Callable[[BaseModel, threading.Event], None]:
    def on_report(item: BaseModel, stop: threading.Event) -> None:
        if isinstance(item, Step) and item.step == step:
            stop.set()

    return on_report


def next_attempt(work: WorkFolder, **changes: object) -> None:
    task = TrainTask.model_validate_json(work.task.read_bytes())
    work.task.write_text(task.model_copy(update={"attempt": task.attempt + 1, **changes}).model_dump_json())


def test_a_run_reports_what_it_does(resident: Resident, make_work: MakeWork) -> None:
    work = make_work(snapshot_interval_s=1e9)
    reports = run(resident, work)
    (started,) = of_type(Started, reports)
    assert (started.total_steps, started.resumed_step, started.training_examples) == (15, 0, 18)
    assert started.execution == EXECUTION
    assert 0 < started.supervised_tokens < started.training_tokens
    assert started.total_parameters > started.trainable_parameters > 0
    steps = of_type(Step, reports)
    assert [step.step for step in steps] == list(range(1, 16))
    assert steps[1].learning_rate == pytest.approx(3e-3)  # the warm-up's end
    assert 0 < steps[-1].learning_rate < 3e-4
    assert sum(step.tokens for step in steps) == 3 * started.training_tokens
    assert steps[-1].train_loss < steps[0].train_loss
    assert [step.step for step in steps if step.valid_loss is not None] == [2, 4, 6, 8, 10, 12, 14, 15]
    assert [step.step for step in steps if step.full_valid_loss is not None] == [5, 10, 15]
    assert [saved.step for saved in of_type(CheckpointSaved, reports)] == [6, 12]
    assert sorted(path.name for path in work.checkpoints.iterdir()) == ["step-12", "step-6"]
    trained = reports[-1]
    assert isinstance(trained, Trained)
    assert trained.trained_tokens == 3 * started.training_tokens
    assert trained.metrics.step == 15
    # The probe set is the whole small validation file here, and so is the last full validation
    assert trained.final_valid_loss == pytest.approx(steps[-1].full_valid_loss, rel=1e-6)
    manifest = json.loads((work.adapter / "attune.json").read_text())
    assert manifest["adapter_sha256"] == trained.adapter_sha256
    assert manifest["data_sha256"] == started.data_sha256
    assert manifest["template_hash"] == started.template_hash
    assert manifest["final_valid_loss"] == trained.final_valid_loss


def test_a_run_resumed_after_any_stop_is_the_uninterrupted_run(resident: Resident, make_work: MakeWork) -> None:
    whole = run(resident, make_work("whole"))
    work = make_work("parts", snapshot_interval_s=1e9)
    parts: list[BaseModel] = []
    for stop_at in range(1, 15):  # each step's snapshot, and a process that goes on from each
        reports = run(resident, work, stop_after(stop_at))
        assert reports[-1] == Stopped(step=stop_at)
        assert of_type(SnapshotSaved, reports)[-1].step == stop_at
        parts += reports
        next_attempt(work)
        torch.manual_seed(stop_at)  # the state of the process is no part of the run
    parts += run(resident, work)
    assert losses(parts) == losses(whole)
    assert [started.resumed_step for started in of_type(Started, parts)] == list(range(15))
    for step in (6, 12):  # the checkpoints too
        paths = [root / "checkpoints" / f"step-{step}" / "adapter_model.safetensors" for root in
                 (work.root, work.root.parent / "whole")]  # fmt: skip
        assert paths[0].read_bytes() == paths[1].read_bytes()
    first, second = of_type(Trained, whole)[0], of_type(Trained, parts)[0]
    assert first.adapter_sha256 == second.adapter_sha256
    assert first.train_loss == second.train_loss
    assert first.trained_tokens == second.trained_tokens
    for name in ("adapter_model.safetensors", "attune.json", "adapter_config.json"):
        assert (work.adapter / name).read_bytes() == (work.root.parent / "whole" / "adapter" / name).read_bytes()


def test_a_warm_engine_gives_what_a_fresh_one_gives(make_work: MakeWork) -> None:
    fresh = run(Resident(), make_work("fresh"))
    warm = Resident()
    run(warm, make_work("other", rank=8, dropout=0.3, examples=10, validation=0, epochs=1))
    with pytest.raises(AttuneError):
        run(warm, make_work("failing", target_modules=("no_such",)))
    run(warm, make_work("stopped"), stop_after(3))
    again = run(warm, make_work("again"))
    assert losses(again) == losses(fresh)
    assert of_type(Trained, again)[0].adapter_sha256 == of_type(Trained, fresh)[0].adapter_sha256


def test_a_base_stays_until_another_is_asked_for(resident: Resident, base_folder: Path) -> None:
    first = resident.base(base_folder, "1", Quantization.NF4, "float32", "cpu")
    assert resident.base(base_folder, "1", Quantization.NF4, "float32", "cpu") is first
    assert resident.base(base_folder, "1", Quantization.NONE, "float32", "cpu") is not first
    assert resident.base(base_folder, "2", Quantization.NONE, "float32", "cpu") is not first


def test_accumulation_and_packing_budget_do_not_change_the_run(resident: Resident, make_work: MakeWork) -> None:
    """The same 4 examples an optimizer step in one micro-step, in a few, or one by one: equal but for rounding."""
    sequences: list[list[float]] = []
    for budget in (8, 128, 4096):
        work = make_work(f"b{budget}", dropout=0.0, execution=EXECUTION.model_copy(update={"micro_tokens": budget}))
        sequences.append([step.train_loss for step in of_type(Step, run(resident, work))])
    assert sequences[1] == pytest.approx(sequences[0], rel=1e-4)
    assert sequences[2] == pytest.approx(sequences[0], rel=1e-4)


def test_a_full_disk_costs_a_snapshot_and_not_the_run(resident: Resident, make_work: MakeWork) -> None:
    work = make_work("full", snapshot_interval_s=1e9)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_and_stop(item: BaseModel, stop: threading.Event) -> None:
        if isinstance(item, Step) and item.step == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
            stop.set()

    try:
        failed, stopped = run(resident, work, fill_and_stop)[-2:]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert isinstance(failed, SnapshotFailed)
    assert (failed.step, stopped) == (2, Stopped(step=2))
    assert not list(work.snapshots.iterdir())  # what found no room takes none


def test_snapshots_that_do_not_verify_or_fit_are_passed_over(resident: Resident, make_work: MakeWork) -> None:
    whole = run(resident, make_work("whole"))
    work = make_work("damaged", snapshot_interval_s=1e9)
    names: list[Path] = []
    for step in (3, 4, 5, 6):
        next_attempt(work, keep_snapshots=9)
        saved = of_type(SnapshotSaved, run(resident, work, stop_after(step)))
        names.append(Path(saved[-1].folder))
    flipped = bytearray((names[3] / "optimizer.safetensors").read_bytes())
    flipped[-1] ^= 1
    (names[3] / "optimizer.safetensors").write_bytes(flipped)
    (names[2] / "manifest.json").unlink()
    manifest = Manifest.model_validate_json((names[1] / "manifest.json").read_bytes())
    other = manifest.model_copy(update={"task_sha256": "0" * 64})
    (names[1] / "manifest.json").write_text(other.model_dump_json())
    (work.snapshots / ".step-00000009-attempt-1.partial").mkdir()

    next_attempt(work)
    reports = run(resident, work)
    warnings = of_type(Message, reports)
    assert [warning.level for warning in warnings] == ["warn"] * 3
    assert of_type(Started, reports)[0].resumed_step == 3
    assert losses(reports) == losses(whole)[3:]
    assert not list(work.snapshots.glob(".*"))


def test_a_snapshot_of_other_data_is_not_resumed_from(resident: Resident, make_work: MakeWork) -> None:
    work = make_work()
    run(resident, work, stop_after(4))
    write_examples(work.training, 18, seed=9)
    next_attempt(work)
    reports = run(resident, work, stop_after(1))
    assert "other training data" in of_type(Message, reports)[0].message
    assert of_type(Started, reports)[0].resumed_step == 0


def test_execution_is_chosen_once_and_kept_by_a_resumed_run(resident: Resident, make_work: MakeWork) -> None:
    work = make_work(execution=None)
    chosen = of_type(Started, run(resident, work, stop_after(2)))[0].execution
    assert chosen.threads == 1
    assert chosen.micro_tokens == 2048  # memory does not limit so small a base
    other: Execution = chosen.model_copy(update={"micro_tokens": 4096})
    next_attempt(work, execution=other)
    reports = run(resident, work, stop_after(3))
    assert of_type(Started, reports)[0].resumed_step == 0
    assert "packing budget" in of_type(Message, reports)[0].message


def test_a_snapshot_outlives_the_ladder(resident: Resident, make_work: MakeWork) -> None:
    """An attempt that went down the ladder and was lost before its first snapshot costs no progress."""
    work = make_work(execution=None)
    chosen = of_type(Started, run(resident, work, stop_after(2)))[0].execution
    lower = chosen.model_copy(update={"micro_tokens": 64, "checkpointing": True})
    next_attempt(work, execution=lower)
    started = of_type(Started, run(resident, work, stop_after(1)))[0]
    assert (started.resumed_step, started.execution) == (2, lower)


def test_snapshots_are_pruned_and_never_made_at_the_last_step(resident: Resident, make_work: MakeWork) -> None:
    work = make_work()
    saved = of_type(SnapshotSaved, run(resident, work))
    assert saved
    assert saved[-1].step < 15
    assert len(list(work.snapshots.iterdir())) <= 2


def test_training_goes_on_from_any_adapter_or_checkpoint_with_the_loss_it_had(
    resident: Resident, make_work: MakeWork
) -> None:
    first = make_work("first", dropout=0.0, checkpoint_every_steps=5)
    reports = run(resident, first)
    (trained,) = of_type(Trained, reports)
    found = [(Path(saved.folder), saved) for saved in of_type(CheckpointSaved, reports)] + [
        (first.adapter, trained.metrics)
    ]
    assert [saved.step for _, saved in found] == [5, 10, 15]
    for folder, saved in found:
        # Another scale: the same function is taken over. At this rate nothing is learnt any more
        work = make_work(f"from-{saved.step}", dropout=0.0, epochs=1, scale=1.0, learning_rate=1e-12)
        shutil.copytree(folder, work.start_adapter)
        assert of_type(Trained, run(resident, work))[0].metrics.full_valid_loss == pytest.approx(
            saved.full_valid_loss, rel=1e-5
        )

    third = make_work("third", rank=8)
    shutil.copytree(first.adapter, third.start_adapter)
    with pytest.raises(AttuneError, match="rank 4") as caught:
        run(resident, third)
    assert caught.value.code == "rank_mismatch"


def test_a_loss_that_is_not_finite_fails_with_step_and_lines(resident: Resident, make_work: MakeWork) -> None:
    """A start adapter with an infinite entry makes the first step's loss NaN."""
    donor = make_work("donor")
    run(resident, donor, None)
    work = make_work("broken")
    shutil.copytree(donor.adapter, work.start_adapter)
    path = work.start_adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if ".lora_B." in name)
    tensors[name][0, 0] = float("inf")
    save_file(tensors, path)
    with pytest.raises(AttuneError, match=r"step 1: the loss .* lines \d+, \d+") as caught:
        run(resident, work)
    failure = as_failure(caught.value)
    assert (failure.kind, failure.code) == ("user", "loss_not_finite")
    assert not work.adapter.exists()


def test_a_faulty_validation_file_is_named(resident: Resident, make_work: MakeWork) -> None:
    work = make_work()
    work.validation.write_text('{"text": "fine"}\n{"text": ""}\n')
    with pytest.raises(AttuneError, match="validation file, line 2") as caught:
        run(resident, work)
    assert caught.value.param == "validation_file"


def test_what_goes_wrong_is_told_apart() -> None:
    assert as_failure(MemoryError()).kind == "out_of_memory"
    assert as_failure(torch.OutOfMemoryError("CUDA out of memory")).kind == "out_of_memory"
    cpu = RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")
    assert as_failure(cpu).kind == "out_of_memory"
    assert as_failure(ZeroDivisionError("x")).kind == "internal"
    user = as_failure(AttuneError("no", code="example_too_long", param="training_file"))
    assert (user.kind, user.code, user.param) == ("user", "example_too_long", "training_file")


def test_real_allocations_beyond_the_machine_are_out_of_memory() -> None:
    with pytest.raises(Exception, match="memory") as caught:
        torch.empty(1 << 55)
    assert isinstance(caught.value, Exception)
    assert as_failure(caught.value).kind == "out_of_memory"


def test_bfloat16_trains_too_and_resumes_exactly(resident: Resident, make_work: MakeWork) -> None:
    execution = Execution(precision="bfloat16", micro_tokens=256, threads=1)
    whole = run(resident, make_work("whole", execution=execution))
    work = make_work("parts", execution=execution)
    run(resident, work, stop_after(7))
    next_attempt(work)
    assert losses(run(resident, work)) == losses(whole)[7:]
    steps = of_type(Step, whole)
    assert steps[-1].train_loss < steps[0].train_loss
