"""The whole description under schemathesis: 100 examples an operation, every check (tests/api/fuzz.py)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.api.fuzz import fuzz

EXAMPLES = 20


@pytest.mark.timeout(1200)
def test_no_request_finds_a_fault_or_an_answer_that_is_not_described(tmp_path: Path) -> None:
    done = fuzz(tmp_path, EXAMPLES)
    assert done.returncode == 0, done.stdout[-20_000:]
    tested = re.search(r"Selected: (\d+)/(\d+)\s+Tested: (\d+)", done.stdout)
    assert tested is not None, done.stdout[-5000:]
    assert len(set(tested.groups())) == 1, "every operation"
    made = re.search(r"(\d+) generated", done.stdout)
    assert made is not None
    assert int(made[1]) > EXAMPLES * int(tested[3]) / 2, "operations without parameters have but one example"
