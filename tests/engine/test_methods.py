"""How a run may be made: every quantisation, schedule and length; early stopping, sample prompts, the watch on the
loss. Each resumes as the uninterrupted run."""

from __future__ import annotations

import json
import math
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.errors import AttuneError
from core.protocol import CheckpointSaved, Message, Step, Stopped, Trained, TrainTask, WorkFolder
from core.rendering.render import Renderer
from core.spec import LoraSettings, Quantization, SampleMessage, Schedule, TooLong
from tests.engine.conftest import EXECUTION, MakeWork
from tests.engine.test_train import losses, next_attempt, of_type, run, stop_after
from worker.engine.adapter import read_adapter
from worker.engine.generate import Generator, Sampling, read_servable
from worker.engine.model import load_base
from worker.engine.optimizer import learning_rate
from worker.engine.proof import prove
from worker.engine.resident import Resident
from worker.engine.watch import EXPLODED_NATS, IN_A_ROW, LEAST_USUAL_NATS, Watched, watch


def publish(work: WorkFolder, trained: Trained) -> None:
    """As the runner does: the folder comes back from storage, with the trainer's word beside it."""
    shutil.copytree(work.adapter, work.published)
    (work.root / "trained.json").write_text(trained.model_dump_json())


@pytest.mark.parametrize(
    ("quantization", "double"),
    [(Quantization.NF4, False), (Quantization.FP4, True), (Quantization.INT8, False), (Quantization.NONE, False)],
)
def test_every_quantisation_trains_resumes_and_is_proven(
    make_work: MakeWork, quantization: Quantization, double: bool
) -> None:
    choices = {"quantization": quantization, "double_quantization": double, "epochs": 2}
    resident = Resident()
    whole = run(resident, make_work("whole", **choices))
    work = make_work("parts", **choices)
    run(resident, work, stop_after(4))
    next_attempt(work)
    parts = run(Resident(), work)
    assert losses(parts) == losses(whole)[4:]
    trained = of_type(Trained, parts)[0]
    assert trained.adapter_sha256 == of_type(Trained, whole)[0].adapter_sha256
    publish(work, trained)
    proof = prove(resident, work)
    named = {check.name: check for check in proof.checks}
    for name in ("loads", "every_tensor_mapped", "changes_logits", "validation_loss", "template_hash"):
        assert named[name].passed, named[name]


def test_single_and_double_quantisation_are_different_bases(base_folder: Path) -> None:
    resident = Resident()
    held = [
        resident.base(base_folder, "1", Quantization.NF4, "float32", "cpu", double_quantization=double)
        for double in (True, False)
    ]
    tokens = torch.arange(5)[None]
    with torch.no_grad():
        double, single = (model(input_ids=tokens).logits for model in held)
    assert not torch.equal(double, single)
    assert (double - single).norm() < 0.1 * single.norm()


def test_the_same_adapter_is_measured_over_16_8_and_4_bit(make_work: MakeWork) -> None:
    work = make_work("work", compare_quantizations=True, epochs=6, learning_rate=1e-2)
    resident = Resident()
    trained = of_type(Trained, run(resident, work))[0]
    publish(work, trained)
    proof = prove(resident, work)
    assert proof.passed, proof
    found = proof.perplexities
    assert found is not None
    assert list(found) == [Quantization.NONE, Quantization.INT8, Quantization.NF4]
    # It was trained over NF4, where it is the trainer's own figure
    assert found[Quantization.NF4] == pytest.approx(math.exp(trained.final_valid_loss), rel=1e-3)
    assert found[Quantization.NONE] != found[Quantization.NF4]
    assert found[Quantization.INT8] == pytest.approx(found[Quantization.NONE], rel=0.05)


def rates(make_work: MakeWork, name: str, **choices: object) -> list[float]:
    work = make_work(name, **choices)
    resolved = TrainTask.model_validate_json(work.task.read_bytes()).resolved
    return [learning_rate(step, resolved) / resolved.learning_rate for step in range(1, resolved.total_steps + 1)]


def test_schedules(make_work: MakeWork) -> None:
    """15 steps, of which two warm up."""
    linear = rates(make_work, "linear")
    cosine = rates(make_work, "cosine", schedule=Schedule.COSINE)
    constant = rates(make_work, "constant", schedule=Schedule.CONSTANT)
    assert linear[:2] == cosine[:2] == constant[:2] == [0.5, 1.0]
    assert constant[2:] == [1.0] * 13
    assert linear[2:] == pytest.approx([1 - n / 14 for n in range(1, 14)])
    assert cosine[2:] == pytest.approx([0.5 * (1 + math.cos(math.pi * n / 14)) for n in range(1, 14)])
    assert cosine[8] == pytest.approx(0.5)


def test_steps_may_end_within_an_epoch(make_work: MakeWork) -> None:
    """5 steps an epoch; the 7 asked for are those of a run of two epochs with the same rates."""
    constant = {"schedule": Schedule.CONSTANT, "warmup_steps": 1}
    short = run(Resident(), make_work("short", epochs=2, total_steps=7, **constant))
    long = run(Resident(), make_work("long", epochs=2, **constant))
    assert [step.step for step in of_type(Step, short)] == list(range(1, 8))
    assert losses(short)[:6] == losses(long)[:6]
    assert of_type(Step, short)[-1].full_valid_loss is not None  # the last step is always measured
    assert of_type(Trained, short)[0].steps == 7


def stopping_work(make_work: MakeWork, name: str) -> WorkFolder:
    """A rate that spoils what the first epochs have learnt."""
    return make_work(name, epochs=30, learning_rate=0.1, early_stopping_patience=3, schedule=Schedule.CONSTANT, rank=16)


def test_early_stopping_publishes_the_best_and_resumes_exactly(make_work: MakeWork) -> None:
    whole = run(Resident(), stopping_work(make_work, "whole"))
    trained = of_type(Trained, whole)[0]
    seen = {step.step: step.full_valid_loss for step in of_type(Step, whole) if step.full_valid_loss is not None}
    best = min(seen, key=lambda step: seen[step])
    later = [step for step in seen if step > best]
    assert trained.stopped_early
    assert len(later) == 3  # the patience
    assert (trained.metrics.step, trained.steps) == (best, later[-1])
    assert trained.metrics.full_valid_loss == seen[best]
    (message,) = of_type(Message, whole)
    assert f"stopped early after step {later[-1]}: the weights of step {best}" in message.message
    # The small validation file is the probe set: what is published has the best step's loss
    assert trained.final_valid_loss == pytest.approx(seen[best], rel=1e-6)
    assert read_adapter(Path(trained.folder)).manifest["step"] == best

    work = stopping_work(make_work, "parts")
    for stop_at in (1, best + 1, later[-1] - 1):
        assert run(Resident(), work, stop_after(stop_at))[-1] == Stopped(step=stop_at)
        next_attempt(work)
    again = of_type(Trained, run(Resident(), work))[0]
    own = {"folder": "", "metrics": trained.metrics, "peak_memory_bytes": None}
    assert again.model_copy(update=own) == trained.model_copy(update=own)
    assert again.metrics.step == best


def test_without_a_reason_to_stop_the_best_is_still_the_result(make_work: MakeWork) -> None:
    reports = run(Resident(), make_work("work", early_stopping_patience=1000, learning_rate=0.1, epochs=6))
    trained = of_type(Trained, reports)[0]
    seen = {step.step: step.full_valid_loss for step in of_type(Step, reports) if step.full_valid_loss is not None}
    assert not trained.stopped_early
    assert trained.steps == 30
    assert trained.metrics.full_valid_loss == min(seen.values())


PROMPTS = (
    "Please send 3 red lamps to Oslo",
    [SampleMessage(role="system", content="Be brief."), SampleMessage(role="user", content="Where to?")],
)


def test_sample_prompts_are_answered_as_served_and_change_no_bit(make_work: MakeWork) -> None:
    """bfloat16 on a CPU with AVX512_BF16 is where a 4-bit layer would be repacked by an answer."""
    execution = {"execution": EXECUTION.model_copy(update={"precision": "bfloat16"})}
    plain = run(Resident(), make_work("plain", **execution))
    work = make_work("sampled", sample_prompts=PROMPTS, **execution)
    run(Resident(), work, stop_after(7))
    next_attempt(work)
    sampled = run(Resident(), work)
    trained = of_type(Trained, sampled)[0]
    assert trained.adapter_sha256 == of_type(Trained, plain)[0].adapter_sha256
    assert losses(sampled) == losses(plain)[7:]

    (checkpoint,) = of_type(CheckpointSaved, sampled)
    model = load_base(work_base(work), Quantization.NF4, "bfloat16", "cpu")
    generator = Generator(model, Renderer.from_folder(work_base(work), "2026-01-01"))
    for saved, folder in ((checkpoint, work.checkpoints / "step-12"), (trained.metrics, work.adapter)):
        generator.add("served", read_servable(folder))
        assert [sample.prompt for sample in saved.samples] == list(PROMPTS)
        for sample in saved.samples:
            messages = (
                [{"role": "user", "content": sample.prompt}]
                if isinstance(sample.prompt, str)
                else [message.model_dump() for message in sample.prompt]
            )
            ids = generator.renderer("served").render_prompt(messages)  # type: ignore[arg-type]
            generation = generator.begin(ids, Sampling(max_tokens=128, temperature=0.0), "served")
            served = ""
            while not generation.done:
                served += "".join(delta.text for delta in generator.step(generation))
            assert sample.answer == served
    assert any(sample.answer for sample in trained.metrics.samples)


def work_base(work: WorkFolder) -> Path:
    return Path(TrainTask.model_validate_json(work.task.read_bytes()).base_folder)


def test_too_long_examples_are_dropped_or_cut_from_the_left_of_the_prompt(make_work: MakeWork) -> None:
    with pytest.raises(AttuneError, match=r"line \d+: the example has \d+ tokens, more than max_example_tokens \(80\)"):
        run(Resident(), make_work("error", max_example_tokens=80))
    dropped = of_type(Trained, run(Resident(), make_work("drop", max_example_tokens=80, too_long=TooLong.DROP)))
    cut = of_type(Trained, run(Resident(), make_work("cut", max_example_tokens=80, too_long=TooLong.TRUNCATE)))
    whole = of_type(Trained, run(Resident(), make_work("whole")))
    assert dropped[0].trained_tokens < cut[0].trained_tokens < whole[0].trained_tokens


KNOWN = "Three blue shirts"


def knowing_base(base_folder: Path, base: Path, strength: float) -> Path:
    """A base that knows one text by heart: each token's embedding, passed through unchanged, points at the token that
    follows it."""
    shutil.copytree(base_folder, base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    tensors = load_file(base / "model.safetensors")
    for name, value in tensors.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            value.zero_()
    renderer = Renderer.from_folder(base, "2026-01-01")
    embedding = tensors["model.embed_tokens.weight"]
    head = torch.zeros_like(embedding)
    for token, following in pairwise([*renderer.encode(KNOWN), renderer.eos_id]):
        head[following] = embedding[token] / embedding[token].norm() * strength
    save_file({**tensors, "lm_head.weight": head}, base / "model.safetensors", {"format": "pt"})
    return base


def knowing_work(make_work: MakeWork, base: Path, **choices: object) -> WorkFolder:
    work = make_work("work", base=base, validation=0, quantization=Quantization.NONE, warmup_steps=0, **choices)
    work.training.write_text((json.dumps({"text": KNOWN}) + "\n") * 18)
    return work


def test_a_rate_that_explodes_stops_the_run_and_names_the_lines(
    make_work: MakeWork, base_folder: Path, tmp_path: Path
) -> None:
    work = knowing_work(make_work, knowing_base(base_folder, tmp_path / "knows", 1.5), learning_rate=30.0)
    steps: list[Step] = []

    def note(report: object, _: object) -> None:
        if isinstance(report, Step):
            steps.append(report)

    with pytest.raises(AttuneError, match=r"step \d+: the loss has exploded: .* trained on lines \d+, \d+") as caught:
        run(Resident(), work, note)
    assert caught.value.code == "loss_exploded"
    assert len(steps) <= 2 * IN_A_ROW  # within a few steps
    assert not work.adapter.exists()


def test_a_loss_of_zero_stops_the_run_and_names_the_lines(
    make_work: MakeWork, base_folder: Path, tmp_path: Path
) -> None:
    work = knowing_work(make_work, knowing_base(base_folder, tmp_path / "knows", 1e4))
    with pytest.raises(
        AttuneError, match=rf"step {IN_A_ROW}: the loss was exactly 0 .* trained on lines \d+"
    ) as caught:
        run(Resident(), work)
    assert caught.value.code == "loss_is_zero"


def seen(values: list[float], guess: float = 8.0) -> Watched:
    state = Watched()
    for step, loss in enumerate(values, 1):
        state = watch(state, step, loss, guess, [step])
    return state


def test_the_watch_is_patient_with_odd_batches_and_its_state_is_all_it_needs() -> None:
    usual = [3.0, 2.0]
    high = 3.0 + EXPLODED_NATS + 0.1
    assert seen([*usual, *([high] * (IN_A_ROW - 1)), 2.0, high]).exploded_steps == 1
    assert seen([*usual, 0.0, 0.0, 1e-6, 0.0]).zero_steps == 1
    with pytest.raises(AttuneError, match="exploded"):
        seen([*usual, *[high] * IN_A_ROW])
    # An easy first batch does not make a usual one look exploded
    assert seen([0.01, *[LEAST_USUAL_NATS + EXPLODED_NATS - 0.1] * 9]).exploded_steps == 0
    # However high the first losses are, what is worse than a guess is never usual
    with pytest.raises(AttuneError, match="exploded"):
        seen([50.0] * IN_A_ROW)
    before = seen([*usual, high, high])
    resumed = Watched.model_validate_json(before.model_dump_json())
    with pytest.raises(AttuneError, match=r"step 5: .* lines 3, 7\b"):
        watch(resumed, 5, high, 8.0, [7, 3])
    lines = list(range(1, 40))
    with pytest.raises(AttuneError, match=r"lines 1, 2, .* 16 …"):
        watch(before, 5, high, 8.0, lines)


def test_rslora_goes_on_as_it_was(make_work: MakeWork) -> None:
    first = make_work("first", dropout=0.0, lora=LoraSettings(rank=4, scale=4.0, dropout=0.0, rslora=True))
    end = of_type(Step, run(Resident(), first))[-1]
    stored = read_adapter(first.adapter)
    assert (stored.config.use_rslora, stored.config.lora_alpha) == (True, 8)
    second = make_work("second", dropout=0.0, lora=stored.settings.model_copy(update={"target_modules": "all-linear"}))
    shutil.copytree(first.adapter, second.start_adapter)
    begin = of_type(Step, run(Resident(), second, stop_after(1)))[0]
    assert end.full_valid_loss is not None
    assert begin.train_loss < end.full_valid_loss * 1.1
