"""The plan's proof and its ladder: every rung gives the same gradients, and a lack of memory leads down it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import BaseModel
from safetensors.torch import load_file

from core.protocol import CheckpointSaved, Message, Started, Step, Trained
from core.spec import Execution, LoraSettings, Quantization, Training
from tests.engine.conftest import EXECUTION, MakeWork
from tests.engine.test_train import assert_same_steps, losses, next_attempt, of_type, run, stop_after
from worker.engine.checkpointing import Recomputed
from worker.engine.fitting import next_rung, try_pack
from worker.engine.lora import attach
from worker.engine.loss import Head, pack_loss
from worker.engine.model import load_base
from worker.engine.pack import Pack, Segment, pack_micro_steps
from worker.engine.resident import Resident
from worker.engine.train import train
from worker.engine.work import as_failure


def segment(length: int) -> Segment:
    tokens = np.random.default_rng(length).integers(3, 300, length).astype(np.uint32)
    return Segment(tokens, np.arange(length) >= length // 2, length)


def test_the_ladder_halves_micro_steps_then_recomputes_then_dequantises_each_time_then_ends() -> None:
    execution: Execution | None = Execution(precision="float32", micro_tokens=1024, threads=1, dequantised=True)
    seen: list[tuple[int, bool, bool]] = []
    while execution is not None and (rung := next_rung(execution, 300, execution.micro_tokens)) is not None:
        execution = rung.execution
        seen.append((execution.micro_tokens, execution.checkpointing, execution.dequantised))
    assert seen == [(512, False, True), (256, False, True), (256, True, True), (256, True, False)]


def test_a_rung_is_below_what_packs_really_hold() -> None:
    rung = next_rung(EXECUTION.model_copy(update={"micro_tokens": 16384}), 300, 900)
    assert rung is not None
    assert (rung.execution.micro_tokens, rung.data["micro_tokens"]) == (512, 512)
    assert "1024 tokens at a time" in rung.message


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_every_rung_gives_the_same_loss_and_gradients(base_folder: Path, dropout: float) -> None:
    model = load_base(base_folder, Quantization.NF4, "float32", "cpu")
    segments = [segment(length) for length in (120, 90, 60, 30)]

    def gradients(budget: int, recomputes: bool) -> tuple[float, list[torch.Tensor]]:
        modules, recomputed = attach(model, LoraSettings(rank=4, scale=2.0, dropout=dropout), 3), Recomputed(model)
        for b in modules.parameters()[1::2]:
            torch.nn.init.normal_(b, std=0.05, generator=torch.Generator().manual_seed(5))
        recomputed.switch(recomputes)
        modules.training(True)
        torch.manual_seed(1)
        total = 0.0
        for micro in pack_micro_steps([len(one.token_ids) for one in segments], budget):
            pack = Pack.of([segments[i] for i in micro], torch.device("cpu"))
            loss, _ = pack_loss(model, Head(model), pack, 1.0 / 150)
            loss.backward()
            total += float(loss.detach())
        recomputed.switch(False)
        found = [parameter.grad for parameter in modules.parameters()]
        modules.detach()
        assert all(gradient is not None for gradient in found)
        return total, [gradient for gradient in found if gradient is not None]

    whole, expected = gradients(300, False)
    recomputed_loss, same = gradients(300, True)
    assert recomputed_loss == whole
    # Not bit for bit: what is made anew by parts adds its gradients up in another order
    assert all((a - b).norm() <= 1e-3 * a.norm() for a, b in zip(expected, same, strict=True))
    assert max(float(gradient.abs().max()) for gradient in expected) > 0
    if dropout == 0.0:  # its draws follow the order of the packs
        split_loss, split = gradients(120, False)
        assert split_loss == pytest.approx(whole, rel=1e-5)
        for a, b in zip(expected, split, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def test_a_trial_leaves_nothing_behind() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter])
    torch.manual_seed(4)
    expected = torch.rand(1)
    torch.manual_seed(4)
    assert try_pack(lambda: (parameter * torch.rand(3)).sum().backward(), [parameter], optimizer) is None
    assert parameter.grad is None
    assert torch.equal(torch.rand(1), expected)

    def fails() -> None:
        raise ValueError("no matter of memory")

    with pytest.raises(ValueError, match="no matter"):
        try_pack(fails, [parameter], optimizer)


def short_of_memory(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """torch pretends: so many backward passes find no memory."""
    backward, left = torch.autograd.backward, [times]

    def refuse(*args: object, **kwargs: object) -> None:
        if left[0]:
            left[0] -= 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        backward(*args, **kwargs)

    monkeypatch.setattr(torch.autograd, "backward", refuse)


def test_the_last_rung_takes_the_base_back_to_4_bit_and_changes_no_bit(
    make_work: MakeWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    low = EXECUTION.model_copy(update={"micro_tokens": 64, "checkpointing": True})
    kept = low.model_copy(update={"dequantised": True})
    whole = run(Resident(), make_work("whole", execution=low))
    resident, work = Resident(), make_work("parts", execution=kept)
    before = run(resident, work, stop_after(4))
    assert of_type(Started, before)[0].execution == kept

    # The next attempt has less memory, goes down, and goes on from the snapshot made above
    next_attempt(work)
    short_of_memory(monkeypatch, times=1)
    after = run(resident, work)
    (rung,), (started,) = of_type(Message, after), of_type(Started, after)
    assert (rung.level, rung.data["dequantised"]) == ("warn", False)
    assert (started.execution, started.resumed_step) == (low, 4)
    assert losses(before) + losses(after) == losses(whole)
    assert of_type(Trained, after)[0].adapter_sha256 == of_type(Trained, whole)[0].adapter_sha256


def test_every_rung_is_told_and_the_last_failure_is_the_jobs(
    make_work: MakeWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    execution = EXECUTION.model_copy(update={"micro_tokens": 256, "dequantised": True})
    told: list[BaseModel] = []
    short_of_memory(monkeypatch, times=99)
    work = make_work(execution=execution)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        train(Resident(), work, told.append, threading.Event(), 1)
    assert [tuple(message.data) for message in of_type(Message, told)][-2:] == [
        ("micro_tokens", "checkpointing"), ("micro_tokens", "checkpointing", "dequantised"),
    ]  # fmt: skip
    assert not of_type(Started, told)
    assert as_failure(caught.value).code == "out_of_memory"


HIGH = EXECUTION.model_copy(update={"dequantised": True})
HALVED = HIGH.model_copy(update={"micro_tokens": 128})
KEPT = HIGH.model_copy(update={"micro_tokens": 64})
RECOMPUTED = KEPT.model_copy(update={"checkpointing": True})
IN_4_BIT = RECOMPUTED.model_copy(update={"dequantised": False})


class ShortOfMemory:
    """torch pretends: backward passes find no memory while `is_short`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_short = False
        backward = torch.autograd.backward

        def refuse(*args: object, **kwargs: object) -> None:
            if self.is_short:
                raise torch.OutOfMemoryError("CUDA out of memory")
            backward(*args, **kwargs)

        monkeypatch.setattr(torch.autograd, "backward", refuse)

    def once_after(self, step: int) -> Callable[[BaseModel, threading.Event], None]:
        """From that step until a rung is told, and never again."""
        told: list[Message] = []

        def on_report(report: BaseModel, _: threading.Event) -> None:
            if isinstance(report, Step) and report.step == step and not told:
                self.is_short = True
            elif isinstance(report, Message):
                told.append(report)
                self.is_short = False

        return on_report


@pytest.mark.parametrize(("above", "below"), [(HIGH, HALVED), (KEPT, RECOMPUTED), (RECOMPUTED, IN_4_BIT)])
def test_a_step_without_memory_leads_a_rung_lower_from_the_newest_snapshot(
    make_work: MakeWork, monkeypatch: pytest.MonkeyPatch, above: Execution, below: Execution
) -> None:
    monkeypatch.setattr("worker.engine.run.SNAPSHOT_SHARE", 1e9)  # one at each step, however long it takes
    whole = run(Resident(), make_work("whole", execution=above, dropout=0.0))
    parts, resident = make_work("parts", execution=above, dropout=0.0), Resident()
    run(resident, parts, stop_after(7))
    next_attempt(parts, execution=below)
    rest = run(resident, parts)

    work = make_work(execution=above, dropout=0.0)
    reports = run(resident, work, ShortOfMemory(monkeypatch).once_after(7))
    (told,), started = of_type(Message, reports), of_type(Started, reports)
    assert told.level == "warn"
    assert told.message.startswith("Memory ran out after step 7")
    assert told.message.endswith("goes on from the snapshot of step 7.")
    assert {"step": 7, "resumed_step": 7}.items() <= told.data.items()
    assert [(each.execution, each.resumed_step) for each in started] == [(above, 0), (below, 7)]
    assert started[0].memory_bytes != started[1].memory_bytes  # each is planned for what it runs with
    # To the last bit what the next attempt would have made of the snapshot, and the same run but for rounding
    assert losses(reports)[7:] == losses(rest)
    assert of_type(Trained, reports)[0].adapter_sha256 == of_type(Trained, rest)[0].adapter_sha256
    assert_same_steps(reports, whole)
    weights, same = (load_file(of_type(Trained, each)[0].folder + "/adapter_model.safetensors")
                     for each in (reports, whole))  # fmt: skip
    for name, value in weights.items():
        torch.testing.assert_close(value, same[name], rtol=1e-2, atol=1e-4)


def test_steps_since_the_snapshot_are_repeated_and_their_checkpoints_are_not(
    make_work: MakeWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, resident = make_work(execution=HIGH, dropout=0.0), Resident()
    run(resident, work, stop_after(4))
    next_attempt(work, snapshot_interval_s=1e9)
    reports = run(resident, work, ShortOfMemory(monkeypatch).once_after(7))
    steps = of_type(Step, reports)
    assert [step.step for step in steps] == [5, 6, 7, *range(5, 16)]
    assert_same_steps(reports[:-1], reports)
    assert [saved.step for saved in of_type(CheckpointSaved, reports)] == [6, 12]


@pytest.mark.parametrize("training", Training)
def test_without_a_snapshot_it_begins_again(
    make_work: MakeWork, monkeypatch: pytest.MonkeyPatch, training: Training
) -> None:
    choices: dict[str, object] = {"quantization": Quantization.NONE, "snapshot_interval_s": 1e9}
    if training is Training.FULL:  # whose base is another after the first steps
        choices |= {"training": training, "lora": None}
    lower = run(Resident(), make_work("lower", execution=EXECUTION.model_copy(update={"micro_tokens": 128}), **choices))
    reports = run(Resident(), make_work(execution=EXECUTION, **choices), ShortOfMemory(monkeypatch).once_after(3))
    (told,) = of_type(Message, reports)
    assert told.message.endswith("Training begins again.")
    assert losses(reports)[3:] == losses(lower)
    assert of_type(Trained, reports)[0].adapter_sha256 == of_type(Trained, lower)[0].adapter_sha256


def test_where_no_rung_is_left_the_failure_is_the_jobs(make_work: MakeWork, monkeypatch: pytest.MonkeyPatch) -> None:
    short, told = ShortOfMemory(monkeypatch), list[BaseModel]()

    def report(item: BaseModel) -> None:
        told.append(item)
        short.is_short = isinstance(item, Started)  # every plan is proven, and no step has the memory

    with pytest.raises(torch.OutOfMemoryError) as caught:
        train(Resident(), make_work(execution=HIGH), report, threading.Event(), 1)
    tried = [started.execution for started in of_type(Started, told)]
    assert tried == [HIGH, HALVED, KEPT, RECOMPUTED, IN_4_BIT]
    assert len(of_type(Message, told)) == len(tried) - 1
    assert as_failure(caught.value).code == "out_of_memory"
