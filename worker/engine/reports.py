"""What a run says of its steps and checkpoints, in the protocol's words."""

from __future__ import annotations

from pathlib import Path

from core.protocol import CheckpointSaved, Sample, Step
from worker.engine.gradients import Learnt
from worker.engine.loss import Mean, Rewards


def of_step(
    step: int, total_steps: int, learnt: Learnt, few: Mean | None, full: Mean | None, *,
    rate: float, tokens: int, seconds: float, peak_memory_bytes: int | None,
) -> Step:  # fmt: skip
    """`few` and `full`: what validation measured after the step, where it fell due."""
    return Step(
        step=step,
        total_steps=total_steps,
        train_loss=learnt.loss,
        train_mean_token_accuracy=learnt.accuracy,
        learning_rate=rate,
        grad_norm=learnt.norm,
        tokens=tokens,
        tokens_per_s=tokens / seconds,
        peak_memory_bytes=peak_memory_bytes,
        valid_loss=few.loss if few else None,
        valid_mean_token_accuracy=few.accuracy if few else None,
        full_valid_loss=full.loss if full else None,
        full_valid_mean_token_accuracy=full.accuracy if full else None,
        **_rewards("", learnt.rewards),
        **_rewards("valid_", few.rewards if few else None),
        **_rewards("full_valid_", full.rewards if full else None),
    )


def _rewards(prefix: str, rewards: Rewards | None) -> dict[str, float]:
    if rewards is None:
        return {}
    return {f"{prefix}rewards_accuracy": rewards.accuracy, f"{prefix}rewards_margin": rewards.margin}


def of_checkpoint(step: Step, folder: Path, samples: tuple[Sample, ...] = ()) -> CheckpointSaved:
    """An adapter published at `step`."""
    return CheckpointSaved(
        step=step.step,
        folder=str(folder),
        train_loss=step.train_loss,
        train_mean_token_accuracy=step.train_mean_token_accuracy,
        valid_loss=step.valid_loss,
        valid_mean_token_accuracy=step.valid_mean_token_accuracy,
        full_valid_loss=step.full_valid_loss,
        full_valid_mean_token_accuracy=step.full_valid_mean_token_accuracy,
        samples=samples,
    )


def log_line(step: Step) -> str:
    """A step for the job's log."""
    return (
        f"step {step.step}/{step.total_steps} loss {step.train_loss:.4f} norm {step.grad_norm:.3f} "
        f"rate {step.learning_rate:.3g} {step.tokens} tokens {step.tokens_per_s:.0f} tokens/s"
        + (
            ""
            if step.rewards_accuracy is None
            else f" rewards {step.rewards_accuracy:.2f} by {step.rewards_margin:.3f}"
        )
        + ("" if step.valid_loss is None else f" validation {step.valid_loss:.4f}")
        + ("" if step.full_valid_loss is None else f" full validation {step.full_valid_loss:.4f}")
    )
