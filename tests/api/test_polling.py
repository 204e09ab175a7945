"""What clients ask for again and again: pages exact at their edges, tags, and how long it will take."""

from __future__ import annotations

import time

import httpx
import openai
import pytest

from core.jobs import claims
from core.jobs.jobs import NewEvent
from tests.api.place import Place, Tenant


def test_c12_pages_of_jobs_are_exact_at_their_edges(tenant: Tenant) -> None:
    file_id = tenant.upload()
    made = [tenant.job(training_file=file_id) for _ in range(4)][::-1]
    jobs = tenant.openai.fine_tuning.jobs
    assert [job.id for job in jobs.list(limit=2)] == made, "pages follow each other by themselves"
    exact = jobs.list(limit=4)
    assert ([job.id for job in exact.data], exact.has_more) == (made, False)
    short = jobs.list(limit=3)
    assert ([job.id for job in short.data], short.has_more) == (made[:3], True)
    rest = jobs.list(limit=1, after=made[2])
    assert ([job.id for job in rest.data], rest.has_more) == (made[3:], False)
    after_the_last = jobs.list(after=made[3])
    assert (after_the_last.data, after_the_last.has_more) == ([], False)
    tenant.job(training_file=file_id)
    assert [job.id for job in jobs.list(limit=2, after=made[0]).data] == made[1:3], "a new job shifts no page"
    with pytest.raises(openai.BadRequestError, match="No such fine-tuning job with id"):
        jobs.list(after="ftjob-of-nobody")


def test_c13_events_have_ids_that_stay_and_an_order_that_holds(tenant: Tenant) -> None:
    job_id = tenant.job()
    tenant.place.prepare(job_id)
    claim = tenant.place.start(job_id)
    with tenant.place.database.begin() as session:
        claims.report(session, claim, [NewEvent(f"step {n}") for n in range(30)])
    jobs = tenant.openai.fine_tuning.jobs
    whole = jobs.list_events(job_id, limit=100)
    by_pages = list(jobs.list_events(job_id, limit=7))
    assert [event.id for event in by_pages] == [event.id for event in whole.data]
    assert len({event.id for event in by_pages}) == len(by_pages) == 34
    times = [event.created_at for event in by_pages]
    assert times == sorted(times, reverse=True), "newest first"
    assert not whole.has_more
    exact = jobs.list_events(job_id, limit=34)
    assert not exact.has_more


def test_c40_a_running_job_tells_when_it_will_end(tenant: Tenant) -> None:
    job_id = tenant.job()
    tenant.place.prepare(job_id)
    jobs = tenant.openai.fine_tuning.jobs
    assert jobs.retrieve(job_id).estimated_finish is None
    claim = tenant.place.start(job_id)
    with tenant.place.database.begin() as session:
        claims.report(session, claim, reported_step=1, seconds_left=600)
    running = jobs.retrieve(job_id)
    assert running.status == "running"
    assert running.estimated_finish == pytest.approx(time.time() + 600, abs=10)
    tenant.place.give_up(claim)
    assert jobs.retrieve(job_id).estimated_finish is None


def test_what_has_not_changed_is_not_sent_again(tenant: Tenant) -> None:
    job_id = tenant.job()
    job = f"/v1/fine_tuning/jobs/{job_id}"
    polled = [job, f"{job}/events", f"{job}/checkpoints", "/v1/fine_tuning/jobs", "/v1/files", "/v1/models"]
    with tenant.http as http:
        tags = {path: http.get(path).headers["etag"] for path in polled}
        assert len(set(tags.values())) >= 5
        for path, tag in tags.items():
            for asked in (tag, f"W/{tag}", f'"x", {tag}'):
                same = http.get(path, headers={"If-None-Match": asked})
                assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
                assert same.headers["x-request-id"]
                assert "content-length" not in same.headers
        assert http.get(job).headers["cache-control"] == "private, no-cache"
        http.post(f"{job}/cancel")
        for path in (job, f"{job}/events", "/v1/fine_tuning/jobs"):
            changed = http.get(path, headers={"If-None-Match": tags[path]})
            assert changed.status_code == 200
            assert changed.headers["etag"] != tags[path]
        assert http.get("/v1/files", headers={"If-None-Match": tags["/v1/files"]}).status_code == 304


def test_a_tag_reveals_nothing_to_others(tenant: Tenant, web: Place) -> None:
    path = f"/v1/fine_tuning/jobs/{tenant.job()}"
    tag = tenant.http.get(path).headers["etag"]
    foreign: httpx.Response = web.tenant().http.get(path, headers={"If-None-Match": tag})
    assert foreign.status_code == 404
    assert "etag" not in foreign.headers
