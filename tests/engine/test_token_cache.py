"""Tokens that were kept are the tokens that would be made, and anything that has a say in them makes them anew."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from core.errors import InvalidExample
from core.protocol import TrainTask
from core.rendering.render import Renderer
from tests.engine.conftest import MakeWork
from worker.engine.data import Dataset, tokenise
from worker.engine.token_cache import KEPT, TokenCache


def test_kept_tokens_are_the_tokens_of_just_this_file_and_these_choices(
    base_folder: Path, make_work: MakeWork, tmp_path: Path
) -> None:
    work = make_work()
    resolved = TrainTask.model_validate_json(work.task.read_bytes()).resolved
    renderer = Renderer.from_folder(base_folder, "2026-01-01")
    made: list[str] = []
    cache = TokenCache(tmp_path / "tokens")

    def get(name: str, **changes: object) -> Dataset:
        def make() -> Dataset:
            made.append(name)
            return tokenise(work.training, renderer, resolved.max_example_tokens)

        return cache.get(work.training, renderer, resolved.model_copy(update=changes), make)

    first, again = get("first"), get("again")
    assert again.sha256 == first.sha256
    for field in fields(Dataset):
        one, other = getattr(first, field.name), getattr(again, field.name)
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)
    assert get("other rate", learning_rate=1.0).sha256 == first.sha256
    get("other limit", max_example_tokens=128)
    text = work.training.read_text()
    work.training.write_text(text + text.splitlines()[0] + "\n")
    assert len(get("longer file")) == len(first) + 1
    kept = max((tmp_path / "tokens").iterdir(), key=lambda path: path.stat().st_mtime_ns) / "token_ids.npy"
    kept.write_bytes(kept.read_bytes()[:-50])
    get("cut short")
    assert made == ["first", "other limit", "longer file", "cut short"]

    work.training.write_text('{"text": ""}\n')
    for _ in range(2):
        with pytest.raises(InvalidExample, match="line 1"):
            get("faulty")
    for number in range(KEPT + 3):
        work.training.write_text(text + " " * number + "\n")
        get("many")
    assert len(list((tmp_path / "tokens").iterdir())) == KEPT
