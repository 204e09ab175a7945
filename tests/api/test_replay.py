"""A request that is sent again: by the official client after a lost answer, and with an Idempotency-Key."""

from __future__ import annotations

import hashlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from sqlalchemy import func, select, update

from core import ids, replay
from core.db import db_now
from core.models import Creation, Job, KeptAnswer
from core.replay import Asked, Keyed
from tests.api.place import BASE, Place, Tenant

JOBS = "/v1/fine_tuning/jobs"


@pytest.fixture
def body(tenant: Tenant) -> dict[str, Any]:
    return {"model": BASE, "training_file": tenant.upload(), "seed": 1}


def count_jobs(tenant: Tenant) -> int:
    with tenant.place.database.read() as session:
        return session.scalar(select(func.count()).select_from(Job).where(Job.project_id == tenant.project_id)) or 0


class LosesAnswers(httpx.BaseTransport):
    """The real network, on which the answers to the first `lost` POSTs do not come back."""

    def __init__(self, lost: int) -> None:
        self._real = httpx.HTTPTransport(verify=False)
        self._lost = lost
        self.retry_counts: list[str] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = self._real.handle_request(request)
        if request.method == "POST":
            self.retry_counts.append(request.headers.get("x-stainless-retry-count", ""))
            if len(self.retry_counts) <= self._lost:
                answer.read()
                answer.close()
                raise httpx.ReadTimeout("the answer was lost", request=request)
        return answer


@pytest.mark.parametrize("lost", [1, 2])
def test_c26_an_answer_that_was_lost_is_given_again(tenant: Tenant, body: dict[str, Any], lost: int) -> None:
    transport = LosesAnswers(lost)
    http = httpx.Client(transport=transport)
    client = OpenAI(api_key=tenant.key, base_url=f"{tenant.place.url}/v1", max_retries=2, http_client=http)
    job = client.fine_tuning.jobs.create(**body)
    assert transport.retry_counts == ["0", "1", "2"][: lost + 1]
    assert count_jobs(tenant) == 1
    assert client.fine_tuning.jobs.retrieve(job.id).id == job.id


def test_c26_equal_calls_that_were_meant_make_jobs_of_their_own(tenant: Tenant, body: dict[str, Any]) -> None:
    first, second = (tenant.openai.fine_tuning.jobs.create(**body).id for _ in range(2))
    assert first != second

    def again(retry_count: int, **changed: Any) -> str:
        answer = tenant.http.post(JOBS, json={**body, **changed}, headers={"x-stainless-retry-count": str(retry_count)})
        return answer.json()["id"]

    content = tenant.openai.fine_tuning.jobs.create(**body)  # the client's own bytes, so hashes differ from ours
    mine = [again(0), again(0)]
    assert len({first, second, content.id, *mine}) == 5
    assert {again(1), again(1)} == set(mine), "each of the two was claimed by one retry"
    assert again(2) in mine
    assert again(1) not in mine, "both have been claimed"
    assert again(1, seed=2) not in mine, "another body"


def test_c26_another_key_and_an_old_job_are_no_replay(tenant: Tenant, body: dict[str, Any]) -> None:
    retried = {"x-stainless-retry-count": "1"}
    job_id = tenant.http.post(JOBS, json=body).json()["id"]
    with tenant.place.operator as http:
        other = http.post("/v1/attune/keys", json={"name": "b", "project_id": tenant.project_id}).json()["key"]
    with tenant.place.client(other) as http:
        assert http.post(JOBS, json=body, headers=retried).json()["id"] != job_id
    with tenant.place.database.begin() as session:
        old = db_now() - replay.RETRY_WINDOW_S - 1
        session.execute(update(Creation).where(Creation.object_id == job_id).values(created_at=old))
    assert tenant.http.post(JOBS, json=body, headers=retried).json()["id"] != job_id


def test_c26_a_first_arrival_that_its_retry_overtook_makes_nothing(tenant: Tenant, body: dict[str, Any]) -> None:
    job_id = tenant.http.post(JOBS, json=body, headers={"x-stainless-retry-count": "1"}).json()["id"]
    with tenant.place.database.read() as session:
        row = session.get_one(Creation, job_id)
    came_late = Asked(row.key_id, row.request_sha256, retry_count=0, arrived=time.perf_counter())
    with tenant.place.database.begin(alone_at=(came_late.chain,)) as session:
        held_up = Asked(row.key_id, row.request_sha256, retry_count=0, arrived=time.perf_counter() - 30)
        assert replay.earlier(session, tenant.project_id, came_late) is None
        found = replay.earlier(session, tenant.project_id, held_up)
        assert found == job_id
        assert replay.earlier(session, tenant.project_id, held_up) is None, "only one first arrival was held up"


def test_c26_a_key_gives_the_same_answer_again(tenant: Tenant, body: dict[str, Any]) -> None:
    keyed = {"Idempotency-Key": "order 66/a"}
    first = tenant.openai.fine_tuning.jobs.with_raw_response.create(**body, extra_headers=keyed)
    second = tenant.openai.fine_tuning.jobs.with_raw_response.create(**body, extra_headers=keyed)
    assert first.content == second.content
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert second.headers["x-request-id"] != first.headers["x-request-id"]
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        tenant.openai.fine_tuning.jobs.create(**{**body, "seed": 2}, extra_headers=keyed)
    assert refused.value.code == "idempotency_key_reused"
    assert refused.value.response.headers["x-should-retry"] == "false"
    elsewhere = tenant.http.post(f"{JOBS}/{first.parse().id}/cancel", headers=keyed)
    assert elsewhere.status_code == 422
    assert count_jobs(tenant) == 1


def test_c26_twenty_at_once_make_one_job(tenant: Tenant, body: dict[str, Any]) -> None:
    gate = threading.Barrier(20)

    def create(_: int) -> str:
        with tenant.http as http:
            gate.wait()
            answer = http.post(JOBS, json=body, headers={"Idempotency-Key": "k"})
        assert answer.status_code == 200, answer.text
        return answer.text

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(create, range(20)))
    assert len(set(answers)) == 1
    assert count_jobs(tenant) == 1


def test_c26_a_failure_leaves_the_key_free(tenant: Tenant, body: dict[str, Any]) -> None:
    keyed = {"Idempotency-Key": "k"}
    wrong = {**body, "training_file": "file-of-nobody"}
    assert tenant.http.post(JOBS, json=wrong, headers=keyed).status_code == 404
    assert tenant.http.post(JOBS, json=body, headers=keyed).status_code == 200


@pytest.mark.parametrize("key", ["", "k" * 256, "naïve", ["a", "b"]])
def test_c26_a_malformed_key_is_refused(tenant: Tenant, body: dict[str, Any], key: str | list[str]) -> None:
    keys = key if isinstance(key, list) else [key]
    headers = [(b"Idempotency-Key", value.encode("latin-1")) for value in keys]
    answer = tenant.http.post(JOBS, json=body, headers=headers)  # pyright: ignore[reportArgumentType]
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_idempotency_key")
    assert count_jobs(tenant) == 0


def test_c26_projects_and_keys_are_made_once_and_their_secret_is_not_in_the_database(web: Place) -> None:
    keyed = {"Idempotency-Key": f"make-{time.time_ns()}"}
    with web.operator as http:
        projects = [http.post("/v1/attune/projects", json={"name": "twin"}, headers=keyed) for _ in range(2)]
        assert projects[0].content == projects[1].content
        own = {"name": "k", "project_id": projects[0].json()["id"]}
        keyed = {"Idempotency-Key": f"key-{time.time_ns()}"}
        keys = [http.post("/v1/attune/keys", json=own, headers=keyed).json() for _ in range(2)]
    assert keys[0] == keys[1]
    with web.client(keys[0]["key"]) as http:
        assert http.get("/v1/models").status_code == 200
    with web.database.read() as session:
        bodies = session.scalars(select(KeptAnswer.body).where(KeptAnswer.body.is_not(None))).all()
    assert bodies
    assert all(b"sk-attune" not in body and b"object" not in body for body in bodies if body)


@pytest.fixture
def keyed(tenant: Tenant) -> Keyed:
    parts = ids.key_parts(tenant.key)
    assert parts is not None
    return Keyed(parts[0], "k", "0" * 64, "holder", "secret")


def test_a_second_request_waits_for_the_first(tenant: Tenant, body: dict[str, Any], keyed: Keyed) -> None:
    database = tenant.place.database
    request = tenant.http.build_request("POST", JOBS, json=body, headers={"Idempotency-Key": "k"})
    sent = hashlib.sha256(request.read()).hexdigest()
    digest = hashlib.sha256(f"{tenant.project_id} POST {JOBS}?\n{sent}".encode()).hexdigest()
    with database.begin() as session:
        first = Keyed(keyed.key_id, "k", digest, "h" * 24, tenant.key)
        assert replay.take(session, first) == "taken"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(tenant.http.send, request)
        time.sleep(0.3)
        assert not waiting.done()
        with database.begin() as session:
            replay.keep(session, first, replay.Answer(200, b'{"id": "made by the first"}'))
        assert waiting.result(5).json() == {"id": "made by the first"}
    assert count_jobs(tenant) == 0


def test_c26_a_first_request_that_takes_long_is_asked_about_again(
    tenant: Tenant, body: dict[str, Any], keyed: Keyed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.gate.replay.WAIT_S", 0.1)
    monkeypatch.setattr("api.gate.replay.STILL_BUSY_RETRY_S", 1.0)
    database = tenant.place.database
    client = OpenAI(api_key=tenant.key, base_url=f"{tenant.place.url}/v1", max_retries=2)
    job_id = client.fine_tuning.jobs.create(**body, extra_headers={"Idempotency-Key": "k"}).id
    ours = KeptAnswer.key_id == keyed.key_id
    with database.begin() as session:
        kept = session.execute(select(KeptAnswer.status, KeptAnswer.body).where(ours)).one()
        session.execute(update(KeptAnswer).where(ours).values(status=None, held_until=db_now() + 60))
    answer = tenant.http.post(f"{JOBS}?", content=b"{}", headers={"Idempotency-Key": "k"})
    assert answer.status_code == 422, "of another request there is nothing to wait for"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.fine_tuning.jobs.create, **body, extra_headers={"Idempotency-Key": "k"})
        time.sleep(0.5)  # by now it has its first 409, with Retry-After
        with database.begin() as session:
            session.execute(update(KeptAnswer).where(ours).values(status=kept.status))
        assert waiting.result(10).id == job_id
    assert count_jobs(tenant) == 1


def test_a_project_is_erased_with_its_answers(tenant: Tenant, body: dict[str, Any]) -> None:
    job_id = tenant.http.post(JOBS, json=body, headers={"Idempotency-Key": "k"}).json()["id"]
    tenant.openai.fine_tuning.jobs.cancel(job_id)
    with tenant.place.operator as http:
        assert http.delete(f"/v1/attune/projects/{tenant.project_id}").status_code == 200
    with tenant.place.database.read() as session:
        assert session.get(Creation, job_id) is None


def test_a_dead_holder_is_followed_and_a_day_later_all_is_forgotten(tenant: Tenant, keyed: Keyed) -> None:
    database = tenant.place.database
    mine = KeptAnswer.key_id == keyed.key_id
    with database.begin() as session:
        assert replay.take(session, keyed) == "taken"
        assert replay.take(session, keyed) == "busy"
        session.execute(update(KeptAnswer).where(mine).values(held_until=db_now() - 1))
        assert replay.look(session, keyed) is None
        assert replay.take(session, keyed) == "taken"
        replay.keep(session, keyed, replay.Answer(201, b"{}"))
        assert replay.take(session, keyed) == replay.Answer(201, b"{}")
        session.execute(update(KeptAnswer).where(mine).values(created_at=db_now() - replay.KEPT_S - 1))
        replay.forget_old(session)
        assert replay.look(session, keyed) is None


def test_a_job_whose_answer_was_never_kept_is_found_by_its_key(tenant: Tenant, body: dict[str, Any]) -> None:
    """The process died between the job and the answer."""
    keyed = {"Idempotency-Key": "k"}
    job_id = tenant.http.post(JOBS, json=body, headers=keyed).json()["id"]
    with tenant.place.database.begin() as session:
        ours = select(Creation.key_id).where(Creation.object_id == job_id).scalar_subquery()
        session.execute(
            update(KeptAnswer).where(KeptAnswer.key_id == ours).values(status=None, body=None, held_until=0.0)
        )
    assert tenant.http.post(JOBS, json=body, headers=keyed).json()["id"] == job_id
    assert count_jobs(tenant) == 1


def send_file(tenant: Tenant, content: bytes, boundary: str, name: str = "a.jsonl", **headers: str) -> Any:
    """As a client does, whose every arrival draws a boundary of its own."""
    form = f'--{boundary}\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n--{boundary}\r\n'
    form += f'content-disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    kind = {"content-type": f"multipart/form-data; boundary={boundary}"}
    data = form.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    return tenant.http.post("/v1/files", content=data, headers={**kind, **headers})


def objects(tenant: Tenant) -> int:
    return len(list(tenant.place.storage.list(f"projects/{tenant.project_id}")))


def test_c26_a_form_is_kept_by_its_key(tenant: Tenant) -> None:
    keyed = {"Idempotency-Key": "upload"}
    first = send_file(tenant, b"one", "aaa", **keyed)
    again = send_file(tenant, b"one", "bbb", **keyed)
    assert first.status_code == 200, first.text
    assert (again.json(), again.headers["idempotent-replayed"]) == (first.json(), "true")
    for other in (send_file(tenant, b"two", "aaa", **keyed), send_file(tenant, b"one", "aaa", "b.txt", **keyed)):
        assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
    malformed = send_file(tenant, b"one", "aaa", **{"Idempotency-Key": "k" * 256})
    assert (malformed.status_code, malformed.json()["error"]["code"]) == (400, "invalid_idempotency_key")
    assert objects(tenant) == 1, "nothing is left of what was not taken"


def test_c26_twenty_equal_forms_at_once_make_one_file(tenant: Tenant) -> None:
    with ThreadPoolExecutor(8) as pool:
        sent = [pool.submit(send_file, tenant, b"same" * 1000, f"b{n}", **{"Idempotency-Key": "k"}) for n in range(20)]
        answers = [each.result() for each in sent]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert objects(tenant) == 1


def test_c26_a_part_of_an_upload_is_kept_by_its_key(tenant: Tenant) -> None:
    made = {"filename": "a.txt", "purpose": "user_data", "bytes": 3, "mime_type": "text/plain"}
    upload = tenant.http.post("/v1/uploads", json=made).json()["id"]
    path, keyed = f"/v1/uploads/{upload}/parts", {"Idempotency-Key": "part"}
    first, again, other = (
        tenant.http.post(path, files={"data": content}, headers=keyed) for content in (b"one", b"one", b"two")
    )
    assert first.status_code == 200, first.text
    assert again.json() == first.json()
    assert other.status_code == 422
    assert objects(tenant) == 1
    done = tenant.http.post(f"/v1/uploads/{upload}/complete", json={"part_ids": [first.json()["id"]]})
    assert done.json()["file"]["bytes"] == 3


def test_c26_a_file_sent_again_after_a_lost_answer_is_the_first_one(tenant: Tenant) -> None:
    first = send_file(tenant, b"one", "aaa", **{"x-stainless-retry-count": "0"}).json()["id"]
    assert send_file(tenant, b"one", "bbb", **{"x-stainless-retry-count": "1"}).json()["id"] == first
    assert send_file(tenant, b"one", "ccc", **{"x-stainless-retry-count": "0"}).json()["id"] != first
    assert send_file(tenant, b"two", "ddd", **{"x-stainless-retry-count": "1"}).json()["id"] != first
    assert objects(tenant) == 3
    tenant.http.delete(f"/v1/files/{first}")
    assert send_file(tenant, b"one", "eee", **{"x-stainless-retry-count": "2"}).status_code == 200


def test_c26_a_batch_asked_for_again_is_one(tenant: Tenant) -> None:
    file = tenant.openai.files.create(file=("a.jsonl", b"{}"), purpose="batch").id
    asked = {"input_file_id": file, "endpoint": "/v1/completions", "completion_window": "24h"}
    made = [
        tenant.http.post("/v1/batches", json=asked, headers={"x-stainless-retry-count": count}).json()["id"]
        for count in ("0", "1", "0")
    ]
    assert made[0] == made[1] != made[2]
