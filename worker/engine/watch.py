"""Stops a run that has gone wrong for good, and names the lines of the batch: a loss that exploded, or that is zero.

One bad step is no proof, since a batch may be odd; a few in a row are. What was seen so far is kept with the run's
progress, so that a resumed run stops at the same step. (A loss that is not finite stops at once, in `run`.)
"""

from __future__ import annotations

from collections.abc import Sequence

from core.errors import AttuneError
from core.spec import Frozen

IN_A_ROW = 3  # bad steps that end a run
EARLY_STEPS = 3  # whose losses say what is usual for the data
EXPLODED_NATS = 3.0  # above the usual: the answers are twenty times less likely than they were
SHOWN_LINES = 16


class Watched(Frozen):
    """What the losses so far have shown."""

    usual: float = 0.0  # the highest loss of the first steps, and never above that of a guess
    exploded_steps: int = 0  # in a row
    zero_steps: int = 0  # in a row


def watch(before: Watched, step: int, loss: float, guess: float, lines: Sequence[int]) -> Watched:
    """What is known after `step` (from 1) with `loss`; `guess` is the loss of guessing, in nats.

    Raises AttuneError (loss_exploded, loss_is_zero) at the last of a few bad steps.
    """
    usual = max(before.usual, min(loss, guess)) if step <= EARLY_STEPS else before.usual
    after = Watched(
        usual=usual,
        exploded_steps=before.exploded_steps + 1 if loss > usual + EXPLODED_NATS else 0,
        zero_steps=before.zero_steps + 1 if loss == 0.0 else 0,
    )
    if after.exploded_steps >= IN_A_ROW:
        raise AttuneError(
            f"step {step}: the loss has exploded: {loss:.3g} nats, {IN_A_ROW} steps in a row above {usual:.3g} by more "
            f"than {EXPLODED_NATS:g}; the step trained on {shown(lines)}. Lower learning_rate_multiplier, and look at "
            "these lines",
            code="loss_exploded",
            param="hyperparameters.learning_rate_multiplier",
        )
    if after.zero_steps >= IN_A_ROW:
        raise AttuneError(
            f"step {step}: the loss was exactly 0 for {IN_A_ROW} steps, so nothing is left to learn; the step trained "
            f"on {shown(lines)}. Give fewer epochs or steps, and look at whether these lines teach anything",
            code="loss_is_zero",
            param="training_file",
        )
    return after


def shown(lines: Sequence[int]) -> str:
    """The first of a batch's lines, in words."""
    some = sorted(set(lines))
    return "lines " + ", ".join(str(line) for line in some[:SHOWN_LINES]) + (" …" if len(some) > SHOWN_LINES else "")
