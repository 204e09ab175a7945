"""Data: order from seed and epoch alone, batches that cover an epoch once, and faults named by line."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from core.errors import InvalidExample
from core.rendering.render import Renderer
from tests.engine.conftest import write_examples
from worker.engine.data import Batches, epoch_order, probe_segments, tokenise


@pytest.fixture(scope="module")
def renderer(base_folder: Path) -> Renderer:
    return Renderer.from_folder(base_folder, "2026-01-01")


def test_an_epochs_order_depends_on_seed_and_epoch_alone() -> None:
    first = epoch_order(7, 0, 100)
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    assert np.array_equal(first, epoch_order(7, 0, 100))
    assert sorted(first.tolist()) == list(range(100))
    assert not np.array_equal(first, epoch_order(7, 1, 100))
    assert not np.array_equal(first, epoch_order(8, 0, 100))
    # Pinned: a change of this order would break every snapshot in the field
    assert epoch_order(7, 0, 8).tolist() == [4, 1, 6, 3, 2, 7, 5, 0]


def test_batches_cover_each_epoch_once_and_begin_anywhere() -> None:
    batches = Batches(examples=10, batch_size=4, seed=3)
    assert batches.steps_per_epoch == 3
    steps = [batches.of_step(step) for step in range(1, 7)]
    for epoch in (steps[:3], steps[3:]):
        assert sorted(i for batch in epoch for i in batch) == list(range(10))
    assert [len(batch) for batch in steps] == [4, 4, 2, 4, 4, 2]
    assert Batches(10, 4, 3).of_step(5) == steps[4]
    assert [batches.ends_epoch(step) for step in range(1, 7)] == [False, False, True, False, False, True]


def test_a_file_becomes_flat_arrays_with_a_hash(renderer: Renderer, tmp_path: Path) -> None:
    write_examples(tmp_path / "a.jsonl", 12, seed=1)
    write_examples(tmp_path / "b.jsonl", 12, seed=2)
    first, again, other = (tokenise(tmp_path / f"{name}.jsonl", renderer, 256) for name in "aab")
    assert len(first) == 12
    assert first.sha256 == again.sha256 != other.sha256
    segments = first.all_segments()
    assert sum(len(segment.token_ids) for segment in segments) == first.tokens
    assert first.supervised_tokens == sum(int(segment.mask.sum()) for segment in segments)
    assert [segment.line for segment in segments] == list(range(1, 13))
    assert len(first.subset()) == 12
    answer = renderer.decode(segments[0].token_ids[segments[0].mask].tolist())
    assert answer.startswith('{"item"')


@pytest.mark.parametrize(
    ("line", "limit", "code"),
    [
        ('{"messages": [{"role": "user", "content": "x"}]}', 256, "no_assistant_message"),
        (json.dumps({"text": "long " * 60}), 32, "example_too_long"),
        (json.dumps({"text": "<|im_end|>"}), 256, None),
    ],
)
def test_a_fault_names_its_line(renderer: Renderer, tmp_path: Path, line: str, limit: int, code: str | None) -> None:
    path = tmp_path / "faulty.jsonl"
    path.write_text(json.dumps({"text": "good"}) + "\n" + line + "\n")
    with pytest.raises(InvalidExample, match="line 2") as caught:
        tokenise(path, renderer, limit)
    assert caught.value.line == 2
    assert code is None or caught.value.code == code


def test_the_probe_set_is_of_the_validation_file_or_else_of_the_training_file(
    renderer: Renderer, make_work: object
) -> None:
    assert callable(make_work)
    with_validation = make_work("with", examples=40, validation=6)
    without = make_work("without", examples=40, validation=0)
    assert len(probe_segments(with_validation, renderer, 256)) == 6
    assert len(probe_segments(without, renderer, 256)) == 32
