"""Packing: the segments of one optimizer step are laid end to end into few rows of at most a token budget.

Packing never decides which examples share an optimizer step, loses no token, and lets no segment see another
(see `attention`). A segment longer than the budget gets a row of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.engine.attention import Segments


@dataclass(frozen=True)
class Segment:
    """One rendering of an example: its tokens, and which of them are supervised (predicted from those before)."""

    token_ids: NDArray[np.uint32]  # [L]
    mask: NDArray[np.bool_]  # [L]; the first is False
    line: int = 0  # of the file, for messages


@dataclass(frozen=True)
class Pack:
    """One forward pass. T tokens, S supervised positions."""

    token_ids: Tensor  # [T] int64
    position_ids: Tensor  # [T] int64, from 0 in each segment
    segments: Segments
    rows: Tensor  # [S] int64: positions whose next token is supervised
    targets: Tensor  # [S] int64: those next tokens

    @staticmethod
    def of(segments: Sequence[Segment], device: torch.device) -> Pack:
        tokens = np.concatenate([segment.token_ids for segment in segments]).astype(np.int64)
        supervised = np.flatnonzero(np.concatenate([segment.mask for segment in segments]))
        lengths = tuple(len(segment.token_ids) for segment in segments)
        positions = np.concatenate([np.arange(length) for length in lengths])
        return Pack(
            token_ids=torch.from_numpy(tokens).to(device),
            position_ids=torch.from_numpy(positions).to(device),
            segments=Segments(lengths, device),
            rows=torch.from_numpy(supervised - 1).to(device),
            targets=torch.from_numpy(tokens[supervised]).to(device),
        )


def pack_micro_steps(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """First-fit decreasing: indices into `lengths`, grouped so that each group's sum is within `budget` (or the
    group is one segment). The same lengths give the same groups."""
    groups: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        for g, free in enumerate(room):
            if lengths[i] <= free:
                groups[g].append(i)
                room[g] -= lengths[i]
                break
        else:
            groups.append([i])
            room.append(budget - lengths[i])
    return groups
