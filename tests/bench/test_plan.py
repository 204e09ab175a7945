"""Two of `make bench-plan`'s configurations: the plan's memory is near what a fresh process takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.plan import CONFIGURATIONS, compare


@pytest.mark.parametrize("name", ["small", "long pack"])
def test_the_predicted_peak_is_the_measured_one(name: str, tmp_path: Path) -> None:
    one = next(one for one in CONFIGURATIONS if one.name == name)
    outcome = compare(one, tmp_path)
    assert outcome.error < 0.15, (outcome.parts, outcome.measured)
