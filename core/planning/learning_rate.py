"""The peak learning rate: by the base's size, the method and the length of the run, with its reason in words."""

from __future__ import annotations

from core.bases.model_shape import ModelShape, rounded
from core.errors import AttuneError
from core.planning.autos import CHOSEN
from core.spec import MAX_LEARNING_RATE, Hyperparameters, Method, Training

# Learning rates for LoRA on all linear layers with scale 2, by parameters of the base: (below, rate). 2e-4 to
# 13 B and 1e-4 above are QLoRA's (arXiv 2305.14314, appendix B); smaller bases bear more, about ten times what
# full fine-tuning takes there (LoRA Without Regret, 2025). The first two are for models made to try things out.
_RATES = (
    (10_000_000, 3e-3),
    (50_000_000, 2e-3),
    (1_000_000_000, 5e-4),
    (5_000_000_000, 3e-4),
    (20_000_000_000, 2e-4),
)
_LARGE_RATE = 1e-4
# Of the supervised rate: preferences are learnt by small moves away from the start. 2e-5 at 7 B lies among
# what is used with LoRA (5e-6 in the alignment handbook's QLoRA recipe, 5e-5 in TRL's example).
_DPO_SHARE = 0.1
# Of LoRA's rate: what full training takes (LoRA Without Regret, 2025)
_FULL_SHARE = 0.1
# Of LoRA's rate in a run of fewer steps than these: 15 times what full training takes, and not 10 (LoRA Without
# Regret, 2025). Not for models made to try things out, whose rates were found by trying.
_FEW_STEPS, _FEW_STEPS_FACTOR, _TRIED_BELOW = 100, 1.5, 50_000_000


def base_learning_rate(
    shape: ModelShape, method: Method = Method.SUPERVISED, training: Training = Training.LORA
) -> float:
    """The peak rate that a multiplier of 1 stands for."""
    rate = next((rate for below, rate in _RATES if shape.parameters < below), _LARGE_RATE)
    share = _DPO_SHARE if method is Method.DPO else _FULL_SHARE if training is Training.FULL else 1.0
    return rate * share


def peak_rate(
    hyper: Hyperparameters, shape: ModelShape, method: Method, total_steps: int, reasons: dict[str, str]
) -> tuple[float, float]:
    """(multiplier, peak rate). Raises AttuneError (invalid_learning_rate) where it is too high to train."""
    base = base_learning_rate(shape, method, hyper.training)
    is_full, is_auto = hyper.training is Training.FULL, hyper.learning_rate_multiplier == "auto"
    is_supervised_lora = method is Method.SUPERVISED and not is_full and shape.parameters >= _TRIED_BELOW
    is_short = is_supervised_lora and total_steps < _FEW_STEPS
    if hyper.learning_rate_multiplier == "auto":
        multiplier = _FEW_STEPS_FACTOR if is_short else 1.0
    else:
        multiplier = float(hyper.learning_rate_multiplier)
    rate = multiplier * base
    if rate > MAX_LEARNING_RATE:
        raise AttuneError(
            f"learning_rate_multiplier {multiplier:g} times the base rate {base:g} is {rate:g}, above "
            f"{MAX_LEARNING_RATE:g}, where training diverges; give at most {MAX_LEARNING_RATE / base:.3g}",
            code="invalid_learning_rate",
            param="hyperparameters.learning_rate_multiplier",
        )
    if not is_auto:
        reasons["learning_rate_multiplier"] = CHOSEN
    elif is_short:
        reasons["learning_rate_multiplier"] = f"{multiplier:g}: a run of {total_steps} steps bears more than a long one"
    else:
        reasons["learning_rate_multiplier"] = "1.0 is the rate found right for this size"
    reasons["learning_rate"] = (
        f"{rate:.1e}: {multiplier:g} times {base:g}, {_source_of_rate(shape)}"
        + (", a tenth of what supervised training takes" if method is Method.DPO else "")
        + (", a tenth of what LoRA takes" if is_full else "")
        + (
            f"; {total_steps} optimizer steps are few, so 15 times the full-tuning rate and not 10"
            if is_short and is_auto
            else ""
        )
    )
    return multiplier, rate


def _source_of_rate(shape: ModelShape) -> str:
    size = rounded(shape.parameters)
    if shape.parameters >= 20_000_000_000:
        return f"QLoRA's value for 33 B and more, at {size}"
    if shape.parameters >= 5_000_000_000:
        return f"QLoRA's value for up to 13 B, at {size}"
    return f"about ten times what full training takes at {size} (LoRA Without Regret)"
