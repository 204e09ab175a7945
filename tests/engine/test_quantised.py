"""A base loaded from its quantised copy is the base that was quantised, and a copy never outlives its base."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from core.spec import Quantization
from worker.engine import resident
from worker.engine.resident import Resident


def loaded(folder: Path, copies: Path | None) -> PreTrainedModel:
    return Resident(copies).base(folder, "1", Quantization.NF4, "bfloat16", "cpu")


def test_the_copy_is_the_base(base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, copies = tmp_path / "base", tmp_path / "copies"
    shutil.copytree(base_folder, base)
    sources: list[Path] = []
    load = resident.load_base

    def noted(folder: Path, *arguments: object, **named: object) -> PreTrainedModel:
        sources.append(folder)
        return load(folder, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(resident, "load_base", noted)
    tokens = torch.arange(1, 25)[None]
    models = [loaded(base, None), loaded(base, copies), loaded(base, copies)]
    assert sources[:2] == [base, base]
    assert sources[2].is_relative_to(copies)
    states = [model.state_dict() for model in models]
    assert all(state.keys() == states[0].keys() for state in states)
    for name, value in states[0].items():
        assert all(torch.equal(state[name], value) for state in states), name
    with torch.no_grad():
        logits = [model(input_ids=tokens).logits for model in models]
    assert torch.equal(logits[0], logits[2])

    # A copy that cannot be read is made anew; one of a base that changed is not used and goes
    weights = next(sources[2].glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    loaded(base, copies)
    assert sources[3:] == [sources[2], base]
    os.utime(base / "model.safetensors", ns=(1, 1))
    loaded(base, copies)
    assert sources[-1] == base
    assert not sources[2].exists()
    assert len(list(sources[2].parent.iterdir())) == 1
