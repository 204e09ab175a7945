"""The largest pack that any step of a run can make, from the lengths alone: memory holds a block of them, and one count
for each length there is, however many examples the file has.

A unit is what has to be in one pack: a segment, or both of a preference pair.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from worker.engine.data import Dataset
from worker.engine.pack import Segment


class Lengths:
    """How many units of each length the training data has."""

    def __init__(self, data: Dataset, *, in_pairs: bool) -> None:
        self._data = data
        self._segments_of_unit = 2 if in_pairs else 1
        self._counts = np.zeros(self._segments_of_unit * data.longest + 1, dtype=np.int64)
        for lengths in self._blocks():
            self._counts += np.bincount(lengths, minlength=len(self._counts))

    @property
    def longest(self) -> int:
        """Tokens of the longest unit."""
        return int(np.flatnonzero(self._counts)[-1])

    def worst_pack(self, budget: int, batch_size: int) -> list[Segment]:
        """The longest unit, and the longest that still fit beside it, at most an optimizer step's number of them: no
        pack of the run has more tokens than the budget, or than its longest unit."""
        wanted: dict[int, int] = {}
        room, places = budget, batch_size
        for length in np.flatnonzero(self._counts)[::-1].tolist():
            fitting = max(room // length, 0 if wanted else 1)
            wanted[length] = min(fitting, int(self._counts[length]), places)
            room, places = room - wanted[length] * length, places - wanted[length]
            if places == 0 or room <= 0:
                break
        return self._first_of(wanted)

    def _first_of(self, wanted: dict[int, int]) -> list[Segment]:
        """So many units of each length, the longest before: the first in the file."""
        missing = {length: count for length, count in wanted.items() if count}
        found: list[tuple[int, int]] = []
        start = 0
        for lengths in self._blocks():
            for length, count in list(missing.items()):
                places = start + np.flatnonzero(lengths == length)[:count]
                found += [(-length, unit) for unit in places.tolist()]
                missing[length] -= len(places)
                if not missing[length]:
                    del missing[length]
            if not missing:
                break
            start += len(lengths)
        each = self._segments_of_unit
        return [self._data.segment(unit * each + i) for _, unit in sorted(found) for i in range(each)]

    def _blocks(self) -> Iterator[NDArray[np.int64]]:
        """Tokens of unit after unit."""
        for lengths in self._data.segment_lengths():
            yield lengths.reshape(-1, self._segments_of_unit).sum(1)
