"""A short run of the mutants, and that the run would show a reader who is wrong."""

from __future__ import annotations

import pytest

from tests.fuzz import mutants
from tests.fuzz.mutants import SEEDS, compare
from tests.fuzz.strict_jsonl import Verdict, judge


def test_both_readers_say_the_same() -> None:
    tally = compare(3000, random_seed=20261121)
    assert tally.disagreements == []
    assert tally.mutants == 3000
    assert min(tally.refused, tally.faulty, tally.good) >= 100  # each kind was met


def test_the_seeds_are_good() -> None:
    assert [judge(seed).faulty for seed in SEEDS if not judge(seed).is_jsonl] == []
    assert {judge(seed).faulty for seed in SEEDS} == {frozenset()}


def test_a_reader_that_is_wrong_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutants, "product", lambda data, chunk: Verdict(True, data.count(b"\n")))
    assert len(compare(100, random_seed=1).disagreements or ()) > 50
