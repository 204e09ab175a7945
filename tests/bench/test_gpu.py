"""bench-gpu where there is no GPU, and the arithmetic of its roofline."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from tests.bench import gpu


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU: make bench-gpu measures it")
def test_without_a_gpu_it_says_so_and_measures_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu"])
    gpu.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Not measured")
    assert json.loads(lines[-1]) == {"gpu": None, "measured": False}


def test_shapes_and_operations_are_those_of_llama_3() -> None:
    published = {"8B": 8.03e9, "3B": 3.21e9, "1B": 1.24e9}
    for size in gpu.SIZES:
        embeddings = size.vocabulary * size.hidden * (1 if size.tied else 2)
        assert size.linear_parameters + embeddings == pytest.approx(published[size.name], rel=0.005)
    eight = gpu.SIZES[0]
    # 4 per linear parameter, 4 per parameter of the head, and 14 · 1024 visible tokens · hidden · layers
    expected = 4 * 6.98e9 + 4 * 128256 * 4096 + 14 * 1024 * 4096 * 32
    assert gpu.flops_per_token(eight, gpu.CONSTANT, [2048] * 4) == pytest.approx(expected, rel=0.001)
