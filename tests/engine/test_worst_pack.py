"""The largest pack of a run is found over lengths alone, and memory does not grow with the examples."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from worker.engine import data as module
from worker.engine.data import Dataset
from worker.engine.pack import Segment
from worker.engine.worst_pack import Lengths


def dataset(lengths: Sequence[int], each: int = 1) -> Dataset:
    """Examples of `each` segments; a segment's tokens are its number."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    token_ids = np.repeat(np.arange(len(lengths), dtype=np.uint32), lengths)
    examples = len(lengths) // each
    starts = np.arange(0, len(lengths) + 1, each, dtype=np.int64)
    return Dataset(token_ids, np.ones(len(token_ids), dtype=np.bool_), offsets, starts, np.arange(1, examples + 1))


def sizes(segments: Sequence[Segment]) -> list[int]:
    return [len(segment.token_ids) for segment in segments]


def test_the_worst_pack_is_the_largest_that_any_step_can_make() -> None:
    lengths = Lengths(dataset((700, 300, 290, 40, 30)), in_pairs=False)
    assert lengths.longest == 700
    assert sizes(lengths.worst_pack(1024, 4)) == [700, 300]
    assert sizes(lengths.worst_pack(1024, 1)) == [700]
    assert sizes(lengths.worst_pack(512, 4)) == [700]


def test_a_pair_stays_together() -> None:
    lengths = Lengths(dataset((10, 300, 200, 150, 20, 5), each=2), in_pairs=True)
    assert lengths.longest == 350
    pack = lengths.worst_pack(375, 4)
    assert sizes(pack) == [200, 150, 20, 5]
    assert [(int(segment.token_ids[0]), segment.line) for segment in pack] == [(2, 2), (3, 2), (4, 3), (5, 3)]


@pytest.mark.parametrize("in_pairs", [False, True])
def test_blocks_of_lengths_give_what_all_of_them_sorted_would(monkeypatch: pytest.MonkeyPatch, in_pairs: bool) -> None:
    monkeypatch.setattr(module, "BLOCK_SEGMENTS", 8)
    chance = random.Random(4)
    for _ in range(50):
        segments = [chance.randint(1, 40) for _ in range(2 * chance.randint(1, 40))]
        units = [a + b for a, b in zip(segments[::2], segments[1::2], strict=True)] if in_pairs else segments
        budget, batch_size = chance.randint(8, 200), chance.randint(1, 9)
        expected, room = list[int](), budget
        for length in sorted(units, reverse=True):
            if len(expected) < batch_size and (not expected or length <= room):
                expected.append(length)
                room -= length
        lengths = Lengths(dataset(segments, 2 if in_pairs else 1), in_pairs=in_pairs)
        pack = sizes(lengths.worst_pack(budget, batch_size))
        assert ([a + b for a, b in zip(pack[::2], pack[1::2], strict=True)] if in_pairs else pack) == expected
        assert lengths.longest == max(units)


def test_memory_does_not_grow_with_the_examples(tmp_path: Path) -> None:
    def most_bytes(examples: int) -> int:
        tokens = np.lib.format.open_memmap(tmp_path / f"{examples}.npy", "w+", np.uint32, (40 * examples,))
        offsets = np.arange(0, 40 * examples + 1, 40, dtype=np.int64)
        each = np.arange(examples + 1, dtype=np.int64)
        data = Dataset(tokens, tokens.view(np.bool_), offsets, each, each[1:])
        tracemalloc.start()
        try:
            assert len(Lengths(data, in_pairs=False).worst_pack(2048, 64)) == 51
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few, many = most_bytes(2 * module.BLOCK_SEGMENTS), most_bytes(16 * module.BLOCK_SEGMENTS)
    assert many < 1.5 * few
