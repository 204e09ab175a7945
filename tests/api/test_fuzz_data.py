"""Schemathesis over what holds data: files, uploads, the doctor: every check, 100 examples an operation."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.api.fuzz import check_part


@pytest.mark.timeout(1200)
def test_no_request_finds_a_fault_or_an_answer_that_is_not_described(tmp_path: Path) -> None:
    check_part(tmp_path, "data")
