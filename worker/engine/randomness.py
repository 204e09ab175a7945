"""Seeding every source of randomness, and carrying their states through a snapshot as tensors."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)  # CUDA devices too


def random_states() -> dict[str, Tensor]:
    """States of python, numpy, torch and every CUDA device."""
    _, words, _ = random.getstate()
    _, keys, position, has_gauss, gauss = np.random.get_state()
    states = {
        "python": torch.tensor(words, dtype=torch.int64),
        "numpy.keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
        "numpy.position": torch.tensor([position, has_gauss], dtype=torch.int64),
        "numpy.gauss": torch.tensor([gauss], dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states.update({f"cuda.{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())})
    return states


def restore_random_states(states: dict[str, Tensor]) -> None:
    random.setstate((3, tuple(int(word) for word in states["python"].tolist()), None))
    position, has_gauss = states["numpy.position"].tolist()
    keys = states["numpy.keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, position, has_gauss, float(states["numpy.gauss"][0])))
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            if f"cuda.{i}" in states:
                torch.cuda.set_rng_state(states[f"cuda.{i}"], i)
