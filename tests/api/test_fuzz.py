"""A few examples of every operation; `make fuzz-api` sends a hundred."""

from __future__ import annotations

from pathlib import Path

from tests.api.fuzz import fuzz


def test_no_operation_answers_what_it_does_not_document(tmp_path: Path) -> None:
    done = fuzz(tmp_path, 10)
    assert done.returncode == 0, done.stdout
