"""The preparation child is told of every job, and nobody waits until it has heard."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from api.beside import preparation
from api.beside.preparation import Preparation

PIPE_BYTES = 1 << 16  # and one byte is a poke


def test_a_child_that_is_busy_for_long_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    busy = tmp_path / "busy"
    busy.write_text("#!/bin/sh\nexec sleep 600\n")
    busy.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(busy))
    monkeypatch.setattr(preparation, "END_GRACE_S", 0.1)
    child = Preparation()
    child.start()

    def poke() -> None:
        for _ in range(2 * PIPE_BYTES):
            child.poke()

    poking = threading.Thread(target=poke, daemon=True)
    try:
        poking.start()
        poking.join(60)
        assert not poking.is_alive()
    finally:
        child.stop()
