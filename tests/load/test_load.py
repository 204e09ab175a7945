"""The loads of `make load`, small: nothing is lost, or refused without a word. How fast it is, is not asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select

from core.models import Job
from tests.engine.tiny_base import make_base
from tests.live import BASE, ROOT
from tests.load import events, limits, queue
from tests.load.__main__ import GROUPS
from tests.load.deployment import Deployment, deployment, generated
from tests.load.figures import Floor, Row, line
from tests.load.generator import Plan
from tests.load.requests import GET, LIST, create_call, upload_call


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("load")
    base: Path = make_base(folder / BASE)
    with deployment(folder / "place", base, workers=1) as running:
        yield running


def test_a_queue_is_drained_without_a_loss(place: Deployment) -> None:
    row = queue.drain(place, 20)
    assert row.errors == 0, row


def test_every_call_is_answered_and_what_was_made_is_there(place: Deployment) -> None:
    project, key = place.tenant("busy")
    file_id = place.file(key)
    ids = [place.prepared_job(key, file_id)]
    calls = [GET, LIST, create_call(file_id), upload_call()]
    report = generated(Plan(place.address, [key], calls, 2.0, 96, ids=ids))
    answered = {name: call["statuses"] for name, call in report["calls"].items()}
    # (more uploads at once than a project may have are told so)
    allowed = {name: {"200", "503"} | ({"429"} if name == "upload" else set()) for name in answered}
    assert all(set(statuses) <= allowed[name] for name, statuses in answered.items()), answered
    assert sum(call["broken"] + call["without_retry_after"] for call in report["calls"].values()) == 0
    made = answered["create"].get("200", 0)
    assert made > 0
    with place.database() as database, database.read() as session:
        assert session.scalar(select(func.count()).where(Job.project_id == project)) == made + 1


def test_each_listener_hears_each_event_once(place: Deployment) -> None:
    row = events.listeners(place, 2.0, count=100)
    assert row.errors == 0, row


def test_each_webhook_arrives_beside_a_dead_endpoint(place: Deployment) -> None:
    row = events.webhooks(place, backlog=60, trickle_s=0.5)
    assert row.errors == 0, row


def test_no_lease_that_is_beaten_is_lost(place: Deployment) -> None:
    row = queue.leases(place, 1.0, number=100)
    assert row.errors == 0, row


def test_a_limit_refuses_with_the_time_to_return(place: Deployment) -> None:
    _, key = place.tenant("limited", max_requests_per_minute=20)
    asked = limits.ask(place, key, 100)
    assert asked.unclear == 0
    assert asked.allowed >= 20
    assert asked.refused >= 60  # the minute may have changed meanwhile


def test_a_floor_that_is_missed_is_named() -> None:
    rates, tails = Floor("per_s", 10, "/s", at_least=True), Floor("p99_ms", 10, "ms")
    rows = [Row("a", [(rates, 9.0), (tails, 9.0)]), Row("b", [(Floor("none", 1, ""), float("nan"))])]
    assert json.loads(line(rows)) == {"per_s": 9.0, "p99_ms": 9.0, "none": None, "missed": ["per_s", "none"]}


def test_the_docs_name_groups_that_there_are() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    named = page.partition("tests.load --only ")[2].split()[0].split(",")
    assert set(named) <= set(GROUPS)
