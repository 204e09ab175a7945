"""One array of a tokenised file on its way to disk: however long it becomes, memory holds a block of it."""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray

BLOCK = 1 << 16  # numbers held back


class Column:
    """Numbers are added at the end; `whole` maps what was written. The file has no name and goes with the map."""

    def __init__(self, folder: Path, typecode: str, dtype: DTypeLike) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # the map keeps it
        self._block = array(typecode)
        self._dtype = dtype
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def extend(self, numbers: Iterable[int]) -> None:
        before = len(self._block)
        self._block.extend(numbers)
        self._count += len(self._block) - before
        if len(self._block) >= BLOCK:
            self._write()

    def append(self, number: int) -> None:
        self.extend((number,))

    def whole(self) -> NDArray[np.generic]:
        """Writable for torch's sake, which is told of no array that is not; the file stays as it is."""
        self._write()
        self._file.flush()
        # A plain view: each slice of a memmap object runs Python, and every segment is slices
        return np.asarray(np.memmap(self._file, dtype=self._dtype, mode="c"))

    def _write(self) -> None:
        self._file.write(self._block.tobytes())
        del self._block[:]
