"""What is sent again, and what has to wait (C26, C27)."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.contract.lossy import lossy_way
from tests.contract.place import BASE, Project, examples, upload


@pytest.mark.parametrize("lost", [1, 2])
def test_c26_a_create_whose_answer_is_lost_makes_one_job(fresh: Project, lost: int) -> None:
    direct = fresh.client()
    training_file = upload(direct, examples(12))
    with lossy_way(fresh.url) as way:
        client = OpenAI(base_url=way.url, api_key=fresh.key, max_retries=2)
        way.lose = lost
        job = client.fine_tuning.jobs.create(model=BASE, training_file=training_file)
        assert way.retry_counts == ["0", "1", "2"][: lost + 1]
        meant = client.fine_tuning.jobs.create(model=BASE, training_file=training_file)
    assert [each.id for each in direct.fine_tuning.jobs.list()] == [meant.id, job.id]
    for each in (job, meant):
        direct.fine_tuning.jobs.cancel(each.id)


def test_c26_an_idempotency_key_gives_the_same_answer(fresh: Project) -> None:
    client = fresh.client(max_retries=0)
    training_file = upload(client, examples(12))
    keyed = {"Idempotency-Key": "order 66/a"}
    create = client.fine_tuning.jobs.with_raw_response.create
    first, again = (create(model=BASE, training_file=training_file, extra_headers=keyed) for _ in range(2))
    assert first.content == again.content
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        create(model=BASE, training_file=training_file, seed=3, extra_headers=keyed)
    assert refused.value.response.headers["x-should-retry"] == "false"
    job_id = first.parse().id
    assert [job.id for job in client.fine_tuning.jobs.list()] == [job_id]
    client.fine_tuning.jobs.cancel(job_id)


def allow(operator: OpenAI, project: Project, **quotas: int | None) -> None:
    operator.patch(f"/attune/projects/{project.id}", cast_to=object, body=quotas)


def test_c27_a_full_project_is_told_when_to_ask_again(operator: OpenAI, fresh: Project) -> None:
    client = fresh.client(max_retries=2)
    training_file = upload(client, examples(12))
    allow(operator, fresh, max_jobs=1)
    first = client.fine_tuning.jobs.create(model=BASE, training_file=training_file)
    with pytest.raises(openai.RateLimitError) as refused:
        client.fine_tuning.jobs.create(model=BASE, training_file=training_file)
    headers: Any = refused.value.response.headers
    assert 1 <= int(headers["retry-after"]) <= 120
    assert headers["x-should-retry"] == "false", "waiting does not help: the client must not try again by itself"
    assert refused.value.request.headers["x-stainless-retry-count"] == "0"
    client.fine_tuning.jobs.cancel(first.id)


def test_c27_a_busy_project_is_told_when_to_ask_again(operator: OpenAI, fresh: Project) -> None:
    client = fresh.client(max_retries=0)
    allow(operator, fresh, max_requests_per_minute=5)
    refusals = []
    for _ in range(11):  # a minute may end on the way: of eleven in two minutes one is too many
        try:
            answer = client.models.with_raw_response.list()
            assert int(answer.headers["x-ratelimit-remaining-requests"]) < 5
        except openai.RateLimitError as refused:
            refusals.append(refused)
    assert refusals
    for refused in refusals:
        assert refused.code == "rate_limit_exceeded"
        assert 1 <= int(refused.response.headers["retry-after"]) <= 120
        assert "x-should-retry" not in refused.response.headers, "the client may wait and try again"
    allow(operator, fresh, max_requests_per_minute=None)
    assert client.models.list().data
