"""How many GPUs a job of a worker may have."""

from __future__ import annotations

import pytest

from worker.device import gpus_seen


@pytest.mark.parametrize(
    ("device", "visible", "count"),
    [("auto", "0,3", 2), ("cuda", "GPU-1", 1), ("auto", "", 1), ("cuda:1", "0,1", 1), ("cpu", "0,1", 1)],
)
def test_gpus_are_those_that_the_worker_is_let_see(
    monkeypatch: pytest.MonkeyPatch, device: str, visible: str, count: int
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus_seen(device) == count
