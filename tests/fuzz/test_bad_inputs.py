"""Every one of the bad inputs, against a web process of its own."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz.bad_inputs import CASES, judged
from tests.fuzz.subject import subject

PATIENCE = 10.0  # `make fuzz` holds the times; here others share the machine


def test_every_bad_input_is_answered_as_it_should_be(tmp_path: Path) -> None:
    with subject(tmp_path) as s:
        found = list(judged(s, patience=PATIENCE))
    assert [verdict.number for verdict in found] == list(range(1, len(CASES) + 1))
    assert not {verdict.number: verdict.faults for verdict in found if not verdict.is_clear}
    assert sum(verdict.five_xx for verdict in found) == 0
    assert (tmp_path / "web.log").read_text().count("Traceback") == 0
