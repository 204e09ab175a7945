"""Choices that contradict each other are refused by name, and every choice is resolved with a reason."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import ValidationError

from core.errors import AttuneError
from core.jobs.choices import check_choices
from core.planning.memory_plan import memory
from core.planning.plan import resolve
from core.spec import Hyperparameters, LoraChoice, Method, Quantization, Schedule, TooLong, Training
from tests.core.test_plan import DATA, SHAPE, counts

FULL = {"training": "full"}


@pytest.mark.parametrize(
    ("chosen", "method", "param", "text"),
    [
        ({"n_epochs": 3, "max_steps": 100}, Method.SUPERVISED, "max_steps", "give one of them"),
        ({"quantization": "int8", "double_quantization": True}, Method.SUPERVISED, "double_quantization", "nf4 or fp4"),
        ({"early_stopping_patience": 2}, Method.SUPERVISED, "early_stopping_patience", "no validation_file"),
        ({"compare_quantizations": True}, Method.SUPERVISED, "compare_quantizations", "validation file"),
        ({**FULL, "quantization": "nf4"}, Method.SUPERVISED, "quantization", "every weight"),
        ({**FULL, "double_quantization": False}, Method.SUPERVISED, "quantization", "every weight"),
        ({**FULL, "lora": {"rank": 8}}, Method.SUPERVISED, "lora", "no adapter"),
        (FULL, Method.DPO, "training", "train lora"),
    ],
)
def test_contradictions(chosen: dict[str, object], method: Method, param: str, text: str) -> None:
    with pytest.raises(AttuneError, match=text) as caught:
        check_choices(Hyperparameters.model_validate(chosen), method, has_validation=False)
    assert (caught.value.code, caught.value.param) == ("contradicting_choices", f"attune.{param}")


@pytest.mark.parametrize(("chosen", "method"), [(FULL, Method.SUPERVISED), ({}, Method.DPO)])
def test_perplexity_is_of_a_supervised_adapter(chosen: dict[str, object], method: Method) -> None:
    hyper = Hyperparameters.model_validate({**chosen, "compare_quantizations": True})
    with pytest.raises(AttuneError, match="compare_quantizations"):
        check_choices(hyper, method, has_validation=True)


def test_what_does_not_contradict_is_taken() -> None:
    for chosen in ({}, FULL, {**FULL, "quantization": "none"}, {"quantization": "fp4", "double_quantization": False}):
        check_choices(Hyperparameters.model_validate(chosen), Method.SUPERVISED, has_validation=False)
    both = Hyperparameters(early_stopping_patience=2, compare_quantizations=True, n_epochs=3)
    check_choices(both, Method.SUPERVISED, has_validation=True)


@pytest.mark.parametrize(
    "chosen",
    [
        {"max_steps": 0},
        {"early_stopping_patience": 0},
        {"sample_prompts": ["a"] * 9},
        {"sample_prompts": [""]},
        {"sample_prompts": [[]]},
        {"sample_prompts": ["a" * 8_000] * 3},
        {"sample_prompts": ["a\x00b"]},
        {"sample_prompts": [[{"role": "robot", "content": "a"}]]},
        {"schedule": "zigzag"},
        {"quantization": "int4"},
        {"too_long": "cut"},
        {"training": "partial"},
        {"double_quantization": 1},
    ],
)
def test_bounds(chosen: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Hyperparameters.model_validate(chosen)


def test_steps_in_place_of_epochs() -> None:
    """125 steps an epoch, whatever was asked for."""
    resolved, reasons = resolve(Hyperparameters(max_steps=300, batch_size=8), DATA, None, SHAPE)
    assert (resolved.total_steps, resolved.n_epochs, resolved.checkpoint_every_steps) == (300, 3, 125)
    assert resolved.warmup_steps == 9
    assert reasons["max_steps"] == "as you chose"
    assert "300 steps of 125" in reasons["n_epochs"]


def test_full_training_is_planned_in_float32_without_an_adapter() -> None:
    resolved, reasons = resolve(Hyperparameters(training=Training.FULL), DATA, None, SHAPE)
    adapter, _ = resolve(Hyperparameters(), DATA, None, SHAPE)
    assert resolved.lora is None
    assert resolved.quantization is Quantization.NONE
    assert resolved.learning_rate == pytest.approx(adapter.learning_rate / 10)
    assert "tenth of what LoRA takes" in reasons["learning_rate"]
    parts = memory(resolved, SHAPE)
    # Weights, gradients and two moments, each of four bytes
    assert parts["weights"] == 4 * SHAPE.parameters
    assert parts["gradients"] + parts["optimizer"] == 12 * SHAPE.parameters
    assert parts["adapter"] == 0


def test_bytes_a_weight_by_quantisation() -> None:
    def base_bytes(**chosen: object) -> int:
        parts = memory(resolve(Hyperparameters.model_validate(chosen), DATA, None, SHAPE)[0], SHAPE)
        return parts["weights"] - 2 * (SHAPE.parameters - SHAPE.linear_parameters)  # embeddings stay in 16 bit

    weights = SHAPE.linear_parameters
    assert base_bytes(quantization="fp4") == base_bytes(quantization="nf4") == base_bytes()
    # QLoRA, section 3: double quantisation saves 0.373 bits a weight
    saved = base_bytes(double_quantization=False) - base_bytes()
    assert saved * 8 / weights == pytest.approx(0.373, abs=0.001)
    assert base_bytes(quantization="int8") == weights
    assert base_bytes(quantization="none") == 2 * weights


def test_rslora_divides_alpha_by_the_root_of_the_rank() -> None:
    def scale(**chosen: object) -> float:
        lora = resolve(Hyperparameters(lora=LoraChoice(rslora=True, **chosen)), DATA, None, SHAPE)[0].lora  # type: ignore[arg-type]
        assert lora is not None
        assert lora.rslora
        return lora.scale

    assert scale() == 2.0
    assert scale(rank=64) == 1.0
    assert scale(rank=64, alpha=16) == 2.0
    assert scale(rank=64, scale=0.5) == 0.5
    with pytest.raises(ValidationError, match=r"sqrt\(rank\)"):
        LoraChoice(rslora=True, alpha=1.0, scale=1.0)


def test_too_few_examples_are_left_says_how_many_were_too_long() -> None:
    few = replace(counts(4), dropped_lines=(2, 3, 5))
    with pytest.raises(AttuneError, match=r"has 4 example\(s\), .* \(3 more are too long\)"):
        resolve(Hyperparameters(too_long=TooLong.DROP), few, None, SHAPE)


def test_schedules_and_switches_are_taken_over() -> None:
    chosen = Hyperparameters(
        schedule=Schedule.COSINE, early_stopping_patience=4, sample_prompts=["Hi"], too_long=TooLong.TRUNCATE
    )
    resolved, reasons = resolve(chosen, DATA, counts(10), SHAPE)
    assert (resolved.schedule, resolved.early_stopping_patience) == (Schedule.COSINE, 4)
    assert (resolved.sample_prompts, resolved.too_long) == (("Hi",), TooLong.TRUNCATE)
    assert reasons["schedule"] == "as you chose"
    assert "4 validation" in reasons["early_stopping_patience"]
    assert "answers stay whole" in reasons["too_long"]
