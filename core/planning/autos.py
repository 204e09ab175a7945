"""How the base is held, how long training runs and how its rate moves: choices with a bound of their own, resolved
with a reason in words. `core.planning.plan.resolve` puts them together.
"""

from __future__ import annotations

import math

from core.spec import Hyperparameters, Quantization, Schedule, TooLong, Training

CHOSEN = "as you chose"


def held(hyper: Hyperparameters, reasons: dict[str, str]) -> tuple[Quantization, bool]:
    """(quantization of the base, whether a 4-bit base's scales are quantised too)"""
    reasons["training"] = (
        "every weight is trained: the yardstick that LoRA is held against"
        if hyper.training is Training.FULL
        else "a low-rank adapter beside frozen weights"
    )
    if hyper.training is Training.FULL:
        reasons["quantization"] = "none: quantised weights cannot be changed"
        reasons["double_quantization"] = "the base is not quantised"
        return Quantization.NONE, False
    chosen = Quantization.NF4 if hyper.quantization == "auto" else hyper.quantization
    reasons["quantization"] = (
        "NF4 with double quantisation holds the base in 4.127 bits a weight and costs no measurable quality "
        "(QLoRA, table 4)"
        if hyper.quantization == "auto"
        else CHOSEN
    )
    if not chosen.is_4bit:
        reasons["double_quantization"] = f"quantization {chosen} has no scales to quantise again"
        return chosen, False
    if hyper.double_quantization == "auto":
        reasons["double_quantization"] = "the scales in 8 bit save 0.37 bits a weight (QLoRA, section 3)"
        return chosen, True
    reasons["double_quantization"] = CHOSEN
    return chosen, hyper.double_quantization


def run_length(hyper: Hyperparameters, n_epochs: int, steps_per_epoch: int, reasons: dict[str, str]) -> tuple[int, int]:
    """(epochs, optimizer steps); the last epoch is a part of one where `max_steps` ends within it."""
    if hyper.max_steps == "auto":
        reasons["max_steps"] = f"{n_epochs} epochs of {steps_per_epoch} steps"
        return n_epochs, n_epochs * steps_per_epoch
    reasons["max_steps"] = CHOSEN
    epochs = math.ceil(hyper.max_steps / steps_per_epoch)
    reasons["n_epochs"] = f"{hyper.max_steps} steps of {steps_per_epoch} an epoch"
    return epochs, hyper.max_steps


def schedule(hyper: Hyperparameters, reasons: dict[str, str]) -> Schedule:
    if hyper.schedule != "auto":
        reasons["schedule"] = CHOSEN
        return hyper.schedule
    reasons["schedule"] = "a fall on a line to zero settles the weights, and has no shape to choose"
    return Schedule.LINEAR


def explain_switches(hyper: Hyperparameters, reasons: dict[str, str]) -> None:
    """What is on or off, and never auto."""
    reasons["too_long"] = {
        TooLong.ERROR: "an example that is too long stops the job, which names its line: nothing is cut unasked",
        TooLong.DROP: "examples that are too long are left out, and counted in the events",
        TooLong.TRUNCATE: "prompts that are too long lose their beginning, counted in the events; answers stay whole",
    }[hyper.too_long]
    patience = hyper.early_stopping_patience
    reasons["early_stopping_patience"] = (
        "training goes to its end, and the last step's weights are the result"
        if patience is None
        else f"training ends after {patience} validation(s) without a gain, and the best one's weights are the result"
    )
    reasons["sample_prompts"] = (
        f"{len(hyper.sample_prompts)} prompt(s) are answered at each checkpoint"
        if hyper.sample_prompts
        else "none were given"
    )
    reasons["compare_quantizations"] = (
        "perplexity over the base in 16, 8 and 4 bit is measured at the end"
        if hyper.compare_quantizations
        else "it was not asked for"
    )
