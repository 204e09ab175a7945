"""Preference optimisation: loss and gradient are those of two plain forward passes through PEFT with the adapter
on and off, and neither packing, accumulation nor a stop changes a run.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from core.errors import InvalidExample
from core.protocol import Started, Step, Stopped, Trained, TrainTask, WorkFolder
from core.spec import LoraSettings, Method, Quantization
from tests.engine.conftest import EXECUTION, MakeWork
from tests.engine.test_lora import in_peft
from tests.engine.test_pack import CPU, adapted, make_segments
from tests.engine.test_train import losses, next_attempt, of_type, run, stop_after
from tests.preferences import pairs
from worker.engine import loss as head_loss
from worker.engine.lora import LoraModules
from worker.engine.pack import Pack, Segment
from worker.engine.preference import REFERENCE, Preference, pairs_of
from worker.engine.proof import prove
from worker.engine.resident import Resident

BETA = 0.2
SEGMENTS = make_segments((30, 41, 17, 25, 60, 33, 22, 22))


def dpo_work(make_work: MakeWork, name: str = "work", *, beta: float = 0.3, **options: object) -> WorkFolder:
    """`make_work`'s folder with pairs in the place of its conversations."""
    work = make_work(name, **options)
    task = TrainTask.model_validate_json(work.task.read_bytes())
    resolved = task.resolved.model_copy(update={"method": Method.DPO, "beta": beta})
    work.task.write_text(task.model_copy(update={"resolved": resolved}).model_dump_json())
    work.training.write_bytes(pairs(18, seed=1))
    work.validation.write_bytes(pairs(6, seed=2))
    return work


def gradients_of(
    model: PreTrainedModel,
    modules: LoraModules,
    micro_steps: list[list[int]],
    reference: str | None = None,
    segments: list[Segment] = SEGMENTS,
) -> tuple[float, float, Tensor]:
    """(mean loss over the pairs, mean margin, all gradients in one row)"""
    preference, couples = Preference(model, modules, BETA, reference), pairs_of(segments)
    loss = margin = 0.0
    for parameter in modules.parameters():
        parameter.grad = None
    for micro in micro_steps:
        pack = Pack.of([segment for i in micro for segment in couples[i]], CPU)
        scores = preference.score(pack, 1 / len(couples))
        scores.loss.backward()
        loss += scores.loss.item()
        margin += scores.margin.item() / len(couples)
    grads = [parameter.grad for parameter in modules.parameters()]
    return loss, margin, torch.cat([grad.flatten() for grad in grads if grad is not None])


def log_likelihood(model: torch.nn.Module, segment: Segment) -> Tensor:
    tokens = torch.from_numpy(segment.token_ids.astype(np.int64))
    log_p = model(input_ids=tokens[None]).logits[0, :-1].log_softmax(-1)
    return log_p.gather(1, tokens[1:, None])[torch.from_numpy(segment.mask[1:])].sum()


def reference_loss(policy: PeftModel, segments: list[Segment]) -> Tensor:
    """DPO as the paper writes it, a sequence at a time: with the adapter, and with `disable_adapter`."""
    total = torch.zeros(())
    for preferred, other in pairs_of(segments):
        with torch.no_grad(), policy.disable_adapter():
            start = log_likelihood(policy, preferred) - log_likelihood(policy, other)
        margin = log_likelihood(policy, preferred) - log_likelihood(policy, other)
        total = total - F.logsigmoid(BETA * (margin - start))
    return total / (len(segments) // 2)


@pytest.mark.parametrize("quantization", list(Quantization))
def test_loss_and_gradient_are_those_of_pefts_adapter_on_and_off(base_folder: Path, quantization: Quantization) -> None:
    model, modules = adapted(base_folder, quantization)
    loss, margin, ours = gradients_of(model, modules, [[0, 1, 2, 3]])
    assert abs(margin) > 0.1, "a reference equal to the policy would compare nothing"
    weights = {name: value.clone() for name, value in modules.weights().items()}
    modules.detach()
    theirs = in_peft(model, weights)
    assert isinstance(theirs, PeftModel)
    expected = reference_loss(theirs, SEGMENTS)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-4)
    named = {name: parameter.grad for name, parameter in theirs.named_parameters() if parameter.requires_grad}
    grads = [named[name.replace(".weight", ".default.weight")] for name in weights]
    reference = torch.cat([grad.flatten() for grad in grads if grad is not None])
    assert (ours - reference).norm() < 1e-4 * reference.norm()


def test_packing_and_accumulation_change_neither_loss_nor_gradient(
    base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, modules = adapted(base_folder, Quantization.NF4)
    loss, margin, whole = gradients_of(model, modules, [[0, 1, 2, 3]])
    for micro_steps in ([[0], [1], [2], [3]], [[2, 0], [3, 1]]):
        other_loss, other_margin, other = gradients_of(model, modules, micro_steps)
        assert (other_loss, other_margin) == pytest.approx((loss, margin), rel=1e-4)
        assert (other - whole).norm() < 1e-4 * whole.norm()
    # Nor do the chunks in which the head is run
    monkeypatch.setattr("worker.engine.preference.CHUNK_ELEMENTS", 7 * head_loss.Head(model).weight.shape[0])
    chunked_loss, _, chunked = gradients_of(model, modules, [[0, 1, 2, 3]])
    assert chunked_loss == pytest.approx(loss, rel=1e-5)
    assert (chunked - whole).norm() < 1e-5 * whole.norm()


def test_an_adapter_that_has_learnt_nothing_is_at_log_two(base_folder: Path) -> None:
    model, modules = adapted(base_folder, Quantization.NONE)
    settings = LoraSettings(rank=4, scale=2.0, dropout=0.0)
    modules.add(REFERENCE, settings, {name: value.clone() for name, value in modules.weights().items()})
    loss, margin, _ = gradients_of(model, modules, [[0, 1, 2, 3]], REFERENCE)
    assert loss == pytest.approx(math.log(2), abs=1e-5)
    assert abs(margin) < 1e-4
    assert modules.active == "default"
    away, _, _ = gradients_of(model, modules, [[0, 1, 2, 3]])
    assert away != pytest.approx(math.log(2), abs=1e-3)


def test_the_mean_over_a_file_is_the_steps_loss(base_folder: Path) -> None:
    model, modules = adapted(base_folder, Quantization.NONE)
    loss, margin, _ = gradients_of(model, modules, [[0, 1, 2, 3]])
    mean = Preference(model, modules, BETA, None).mean(SEGMENTS, 64)
    assert mean.loss == pytest.approx(loss, rel=1e-4)
    assert mean.rewards is not None
    assert mean.rewards.margin == pytest.approx(margin, rel=1e-4)
    assert mean.supervised_tokens == sum(int(segment.mask.sum()) for segment in SEGMENTS[::2])


def test_a_run_learns_the_preference_and_is_proven(make_work: MakeWork) -> None:
    resident, work = Resident(), dpo_work(make_work, epochs=2, dropout=0.0)
    reports = run(resident, work)
    steps = of_type(Step, reports)
    assert steps[0].train_loss == pytest.approx(math.log(2), abs=1e-3)
    assert steps[0].rewards_margin == pytest.approx(0, abs=1e-2)
    assert steps[-1].train_loss < 0.5
    assert steps[-1].full_valid_rewards_accuracy == 1.0
    assert (steps[-1].rewards_margin or 0) > 0.5
    assert 0 <= steps[-1].train_mean_token_accuracy <= 1
    started, trained = of_type(Started, reports)[0], of_type(Trained, reports)[0]
    assert sum(step.tokens for step in steps) == 2 * started.training_tokens == trained.trained_tokens
    assert trained.final_valid_loss == pytest.approx(steps[-1].full_valid_loss or 0, rel=1e-6)
    manifest = json.loads((work.adapter / "attune.json").read_text())
    assert (manifest["hyperparameters"]["method"], manifest["hyperparameters"]["beta"]) == ("dpo", 0.3)
    check_proof(resident, work, trained, passes=True)
    # It would see another loss
    check_proof(resident, work, trained.model_copy(update={"final_valid_loss": 0.01}), passes=False)


def check_proof(resident: Resident, work: WorkFolder, trained: Trained, *, passes: bool) -> None:
    shutil.copytree(work.adapter, work.published, dirs_exist_ok=True)
    (work.root / "trained.json").write_text(trained.model_dump_json())
    proof = prove(resident, work)
    checks = {check.name: check for check in proof.checks}
    assert checks["validation_loss"].passed == passes, checks["validation_loss"].detail
    assert "6 pairs" in checks["validation_loss"].detail
    assert proof.passed == passes, proof


def test_a_resumed_run_is_the_uninterrupted_run(make_work: MakeWork) -> None:
    resident = Resident()
    whole = run(resident, dpo_work(make_work, "whole"))
    work = dpo_work(make_work, "parts")
    first = run(resident, work, stop_after(6))
    assert first[-1] == Stopped(step=6)
    next_attempt(work)
    torch.manual_seed(99)
    second = run(resident, work)
    assert losses([*first, *second]) == losses(whole)
    assert of_type(Trained, second)[0].adapter_sha256 == of_type(Trained, whole)[0].adapter_sha256


def test_the_packing_budget_does_not_change_a_run(make_work: MakeWork) -> None:
    resident = Resident()
    sequences: list[list[float]] = []
    for budget in (8, 4096):
        execution = EXECUTION.model_copy(update={"micro_tokens": budget})
        work = dpo_work(make_work, f"b{budget}", dropout=0.0, execution=execution)
        sequences.append([step.train_loss for step in of_type(Step, run(resident, work, stop_after(5)))])
    assert sequences[1] == pytest.approx(sequences[0], rel=1e-3)


def test_a_continued_run_is_held_against_the_adapter_it_began_from(make_work: MakeWork) -> None:
    resident, donor = Resident(), make_work("donor", dropout=0.0, epochs=1)
    run(resident, donor)
    work = dpo_work(make_work, "continued", dropout=0.0, scale=1.0, epochs=2)
    shutil.copytree(donor.adapter, work.start_adapter)
    reports = run(resident, work, stop_after(4))
    assert of_type(Step, reports)[0].train_loss == pytest.approx(math.log(2), abs=1e-3)
    next_attempt(work)
    rest = run(resident, work)
    assert of_type(Started, rest)[0].resumed_step == 4
    assert of_type(Step, rest)[-1].train_loss < 0.5
    check_proof(resident, work, of_type(Trained, rest)[0], passes=True)


def test_examples_of_another_kind_are_refused(make_work: MakeWork) -> None:
    work = dpo_work(make_work)
    plain = make_work("plain")
    shutil.copy(plain.training, work.training)
    with pytest.raises(InvalidExample, match="line 1: the method dpo trains on preference pairs") as caught:
        run(Resident(), work)
    assert caught.value.code == "wrong_method"
    shutil.copy(dpo_work(make_work, "pairs").training, plain.training)
    with pytest.raises(InvalidExample, match="use the method dpo"):
        run(Resident(), plain)
