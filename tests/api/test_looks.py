"""A list holds what each job is now, whether or not an ended one is remembered."""

from __future__ import annotations

import pytest

from api.together import looks
from tests.api.place import Tenant


def listed(tenant: Tenant) -> list[dict[str, object]]:
    answer = tenant.http.get("/v1/fine_tuning/jobs")
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert (body["object"], body["has_more"]) == ("list", False)
    return body["data"]


def test_a_list_is_what_its_jobs_are_one_by_one(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "MOST_ENDED", 2)  # some are forgotten on the way
    ids = [tenant.job() for _ in range(5)]
    for number in (None, 0, 2, 3, 4):
        if number is not None:
            tenant.openai.fine_tuning.jobs.cancel(ids[number])
        for _ in range(2):
            one_by_one = [tenant.http.get(f"/v1/fine_tuning/jobs/{job_id}").json() for job_id in ids[::-1]]
            assert listed(tenant) == one_by_one


def test_what_is_remembered_is_not_shown_to_others(tenant: Tenant) -> None:
    tenant.openai.fine_tuning.jobs.cancel(tenant.job())
    assert len(listed(tenant)) == 1
    assert listed(tenant.place.tenant("other")) == []
