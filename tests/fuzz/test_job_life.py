"""A few sequences of the job's life on each database."""

from __future__ import annotations

from tests.api.conftest import web
from tests.api.place import Place
from tests.fuzz import job_life

__all__ = ["web"]


def test_jobs_live_in_any_order(web: Place) -> None:
    ran = job_life.run(web, sequences=6, steps=40)
    assert ran.sequences >= 6
    assert ran.steps["claim"] >= 6
    assert ran.steps["late"] >= 1
    assert sum(ran.ended.values()) >= 6
