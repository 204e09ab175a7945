"""A few short sequences of the life of jobs, on both kinds of deployment; `make fuzz` runs hundreds of long ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import ColumnElement

from core.jobs import claims
from core.jobs.claims import Claim
from core.models import Job
from tests.fuzz import job_life
from tests.fuzz.__main__ import KINDS, web_side


@pytest.mark.parametrize("kind", KINDS)
def test_jobs_live_by_the_rules_whatever_comes_next(kind: str, tmp_path: Path) -> None:
    with web_side(kind, tmp_path) as web:
        ran = job_life.run(web, sequences=10, steps=30)
    assert ran.sequences >= 10
    assert set(ran.steps) >= {"create", "claim", "beat", "cancel", "pause", "resume", "lose", "late", "finish", "fail"}


def test_a_fence_that_holds_nothing_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_gate(claim: Claim) -> list[ColumnElement[bool]]:
        return [Job.id == claim.job_id]

    monkeypatch.setattr(claims, "mine", open_gate)
    with web_side("embedded", tmp_path) as web, pytest.raises(AssertionError):
        job_life.run(web, sequences=10, steps=30, shrink=False)
