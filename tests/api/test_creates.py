"""Jobs created at once: each is made once, or refused for itself, whatever becomes of those beside it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from api.together import together
from core.db import Database
from core.jobs import intake
from core.jobs.intake import Wanted
from core.models import AuditEntry, Creation, Job, JobEvent
from tests.api.place import BASE, Tenant

PATH = "/v1/fine_tuning/jobs"


@contextmanager
def held(monkeypatch: pytest.MonkeyPatch) -> Generator[tuple[list[int], Event]]:
    """The first create waits within its transaction, so that the others come together; yields what each one held."""
    sizes: list[int] = []
    go = Event()
    accept = intake.accept

    def slow(session: Session, project_id: str, several: list[Wanted]) -> Any:
        sizes.append(len(several))
        if len(sizes) == 1:
            assert go.wait(20)
        return accept(session, project_id, several)

    monkeypatch.setattr(intake, "accept", slow)
    monkeypatch.setattr(together, "AT_ONCE", 1)
    yield sizes, go
    monkeypatch.undo()


def create_all(tenant: Tenant, bodies: list[dict[str, Any]], go: Event, sizes: list[int]) -> list[httpx.Response]:
    def post(body: dict[str, Any]) -> httpx.Response:
        headers = {"x-stainless-retry-count": str(body.pop("retry"))} if "retry" in body else {}
        with tenant.http as http:
            return http.post(PATH, json=body, headers=headers)

    with ThreadPoolExecutor(len(bodies)) as pool:
        answers: list[Future[httpx.Response]] = []
        for body in bodies:
            answers.append(pool.submit(post, body))
            while not sizes:  # the first comes alone
                time.sleep(0.001)
                assert not answers[-1].done(), answers[-1].result().text
        time.sleep(0.5)  # the others are waiting now
        go.set()
        return [answer.result() for answer in answers]


def test_each_is_made_once_or_refused_for_itself(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    good = {"model": BASE, "training_file": tenant.upload()}
    bodies = [{**good, "metadata": {"n": str(n)}} for n in range(12)]
    bodies[5] = {"model": "nobody/nothing", "training_file": good["training_file"]}
    bodies[7] = {"model": BASE, "training_file": "file-none"}
    # a request and its retry, which the first's lost answer has caused, and two equal ones that are meant as two
    bodies += [
        {**good, "seed": 3, "retry": 0},
        {**good, "seed": 3, "retry": 1},
        {**good, "seed": 4},
        {**good, "seed": 4},
    ]
    with held(monkeypatch) as (sizes, go):
        answers = create_all(tenant, [dict(body) for body in bodies], go, sizes)
    assert max(sizes) > 5, f"they were to come together, and came as {sizes}"
    statuses = Counter(answer.status_code for answer in answers)
    assert statuses == {200: 14, 404: 2}
    assert answers[5].json()["error"]["param"] == "model"
    assert "file-none" in answers[7].json()["error"]["message"]
    for number in (*range(5), 6, *range(8, 12)):
        assert answers[number].json()["metadata"] == {"n": str(number)}, "nobody has another's answer"
    again, twice = ({answer.json()["id"] for answer in answers[at : at + 2]} for at in (12, 14))
    assert (len(again), len(twice)) == (1, 2)
    assert_rows(
        tenant.place.database, tenant.project_id, {answer.json()["id"] for answer in answers if answer.is_success}
    )


def assert_rows(database: Database, project_id: str, made: set[str]) -> None:
    with database.read() as session:
        ids = session.scalars(select(Job.id).where(Job.project_id == project_id)).all()
        assert sorted(ids) == sorted(made)
        events = session.execute(
            select(JobEvent.job_id, func.count())
            .where(JobEvent.job_id.in_(made), JobEvent.seq <= 2)
            .group_by(JobEvent.job_id)
        )
        assert {tuple(row) for row in events} == {(job_id, 2) for job_id in made}
        assert set(session.scalars(select(Creation.object_id).where(Creation.project_id == project_id))) >= made
        audited = session.execute(
            select(AuditEntry.object_id, AuditEntry.status).where(
                AuditEntry.project_id == project_id, AuditEntry.route == PATH
            )
        )
        noted = Counter(tuple(row) for row in audited)
        assert all(noted[job_id, 200] >= 1 for job_id in made)
        assert sum(count for (_, status), count in noted.items() if status == 404) == 2


def test_a_limit_holds_among_those_that_come_together(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    good = {"model": BASE, "training_file": tenant.upload()}
    tenant.place.operator.post(f"/v1/attune/projects/{tenant.project_id}", json={"max_jobs": 5}).raise_for_status()
    with held(monkeypatch) as (sizes, go):
        answers = create_all(tenant, [{**good, "seed": n} for n in range(12)], go, sizes)
    assert max(sizes) > 5
    assert Counter(answer.status_code for answer in answers) == {200: 5, 429: 7}


def test_a_bug_that_one_meets_is_not_the_others(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    good = {"model": BASE, "training_file": tenant.upload()}
    check = intake.check

    def buggy(session: Session, project_id: str, wanted: Wanted, **found: Any) -> Any:
        if wanted.seed == 6:
            raise RuntimeError("a bug")
        return check(session, project_id, wanted, **found)

    with held(monkeypatch) as (sizes, go):
        monkeypatch.setattr(intake, "check", buggy)
        answers = create_all(tenant, [{**good, "seed": n} for n in range(10)], go, sizes)
    assert Counter(answer.status_code for answer in answers) == {200: 9, 500: 1}
    assert answers[6].status_code == 500
    with tenant.place.database.read() as session:
        assert session.scalar(select(func.count()).where(Job.project_id == tenant.project_id)) == 9
