"""The optimizer and its schedule: AdamW, a linear warm-up, then a fall on a line or half a cosine that would reach
0 one step after the last, or none. Unfused on the CPU, where fused AdamW gives other bits; fused on CUDA.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from core.spec import Resolved, Schedule

BETAS = (0.9, 0.999)  # QLoRA's, https://arxiv.org/abs/2305.14314 appendix B


def make_optimizer(parameters: list[nn.Parameter], resolved: Resolved) -> torch.optim.AdamW:
    on_cuda = parameters[0].device.type == "cuda"
    # Norms and biases, which only full training moves, are not decayed: they scale and shift, and cannot overfit
    decayed = [parameter for parameter in parameters if parameter.ndim >= 2]
    others = [parameter for parameter in parameters if parameter.ndim < 2]
    groups = [{"params": decayed}, *([{"params": others, "weight_decay": 0.0}] if others else [])]
    return torch.optim.AdamW(
        groups,
        lr=resolved.learning_rate,
        betas=BETAS,
        eps=1e-8,
        weight_decay=resolved.weight_decay,
        foreach=False,
        fused=on_cuda,
    )


def learning_rate(step: int, resolved: Resolved) -> float:
    """Rate of optimizer step `step` (from 1): rises to the peak at step `warmup_steps`, then as the schedule says."""
    warmup = max(resolved.warmup_steps, 1)
    if step <= warmup:
        return resolved.learning_rate * step / warmup
    left = (resolved.total_steps - step + 1) / (resolved.total_steps - warmup + 1)  # of the way down, 1 to 0
    match resolved.schedule:
        case Schedule.LINEAR:
            return resolved.learning_rate * left
        case Schedule.COSINE:
            return resolved.learning_rate * 0.5 * (1.0 - math.cos(math.pi * left))
        case Schedule.CONSTANT:
            return resolved.learning_rate


def clip_gradients(parameters: list[nn.Parameter], max_norm: float) -> Tensor:
    """Scale all gradients so that their common norm is at most `max_norm`; returns the norm before. Scalar."""
    on_cuda = parameters[0].device.type == "cuda"
    return torch.nn.utils.clip_grad_norm_(parameters, max_norm, foreach=on_cuda)


def state_tensors(optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    """{"<parameter number>.<entry>": tensor} of everything the optimizer remembers."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{name}": value for i, entries in state.items() for name, value in entries.items()}


def load_state_tensors(optimizer: torch.optim.AdamW, tensors: dict[str, Tensor]) -> None:
    """Put back what `state_tensors` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
