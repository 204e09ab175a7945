"""Choices that contradict each other or the rest of a request: refused at create, each with what to change."""

from __future__ import annotations

from core.errors import AttuneError
from core.spec import Hyperparameters, LoraChoice, Method, Quantization, Training


def check_choices(hyper: Hyperparameters, method: Method, *, has_validation: bool) -> None:
    """Raises AttuneError (contradicting_choices) naming one of the two."""
    if hyper.n_epochs != "auto" and hyper.max_steps != "auto":
        raise _contradiction("n_epochs and max_steps both say how long to train; give one of them", "max_steps")
    if hyper.double_quantization != "auto" and hyper.quantization not in ("auto", Quantization.NF4, Quantization.FP4):
        raise _contradiction(
            f"double_quantization is of 4-bit bases, and quantization is {hyper.quantization}; leave it out, or "
            "choose nf4 or fp4",
            "double_quantization",
        )
    if hyper.early_stopping_patience is not None and not has_validation:
        raise _contradiction(
            "early stopping looks at the validation loss, and there is no validation_file; give one, or leave "
            "early_stopping_patience out",
            "early_stopping_patience",
        )
    if hyper.compare_quantizations and not has_validation:
        raise _contradiction(
            "compare_quantizations measures perplexity on the validation file, and there is none; give one, or leave "
            "it out",
            "compare_quantizations",
        )
    if hyper.compare_quantizations and method is Method.DPO:
        raise _contradiction(
            "compare_quantizations measures perplexity, which says nothing of preferences; leave it out",
            "compare_quantizations",
        )
    if hyper.training is Training.FULL:
        _check_full(hyper, method)


def _check_full(hyper: Hyperparameters, method: Method) -> None:
    if hyper.quantization not in ("auto", Quantization.NONE) or hyper.double_quantization != "auto":
        raise _contradiction(
            "full training changes every weight, and quantised weights cannot be changed; leave quantization out, or "
            "train lora",
            "quantization",
        )
    if hyper.lora != LoraChoice():
        raise _contradiction("full training has no adapter, so nothing in lora applies; leave it out", "lora")
    if method is Method.DPO:
        raise _contradiction(
            "the method dpo compares with the base, which full training overwrites; train lora", "training"
        )
    if hyper.compare_quantizations:
        raise _contradiction(
            "compare_quantizations puts one adapter on several bases, and full training makes none; leave it out",
            "compare_quantizations",
        )


def _contradiction(message: str, name: str) -> AttuneError:
    return AttuneError(f"{message}.", code="contradicting_choices", param=f"attune.{name}")
