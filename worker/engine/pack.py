"""Packing: the segments of one optimizer step are laid end to end into few rows of at most a token budget.

Packing never decides which examples share an optimizer step, loses no token, and lets no segment see another
(see `attention`). A segment longer than the budget gets a row of its own. On a GPU a row is filled up to one of a few
shapes, so that whatever is compiled or captured for a shape serves the next row too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.engine.attention import Segments

LEAST_ROW_TOKENS = 128  # a tile of a matrix product
SHAPES_AN_OCTAVE = 8  # a row is filled up by an eighth at most where it is longer than 1,024 tokens
FILLER_TOKENS = 64  # of a segment that fills a row up: a longer one would cost attention


def row_shape(tokens: int) -> int:
    """The length of the row that so many tokens get: forty of them up to 16,384."""
    octave = 1 << max((tokens - 1).bit_length() - 1, 0)
    step = max(octave // SHAPES_AN_OCTAVE, LEAST_ROW_TOKENS)
    return -(-tokens // step) * step


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
    count: int  # segments; what fills the row up to a static shape lies behind them
    rows: Tensor  # [S] int64: positions whose next token is supervised
    targets: Tensor  # [S] int64: those next tokens

    @staticmethod
    def of(segments: Sequence[Segment], device: torch.device, static_shapes: bool | None = None) -> Pack:
        """The row of `segments`; with static shapes (None: on a GPU) filled up behind them.

        What fills it are segments of their own that nothing supervised is in, so loss and gradients are the same.
        """
        if static_shapes is None:
            static_shapes = device.type == "cuda"
        lengths = [len(segment.token_ids) for segment in segments]
        tokens = np.concatenate([segment.token_ids for segment in segments]).astype(np.int64)
        supervised = np.flatnonzero(np.concatenate([segment.mask for segment in segments]))
        if static_shapes:
            missing = row_shape(len(tokens)) - len(tokens)
            tokens = np.concatenate([tokens, np.zeros(missing, dtype=np.int64)])
            lengths += [min(FILLER_TOKENS, missing - start) for start in range(0, missing, FILLER_TOKENS)]
        positions = np.concatenate([np.arange(length) for length in lengths])
        return Pack(
            token_ids=torch.from_numpy(tokens).to(device),
            position_ids=torch.from_numpy(positions).to(device),
            segments=Segments(tuple(lengths), device, static_shapes),
            count=len(segments),
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
