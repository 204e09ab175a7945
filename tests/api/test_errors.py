"""The envelope on every failure, headers on every answer, and health as machines ask for it."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import text

from core.models import Job
from core.settings import Settings
from tests.api.place import Place, Tenant, place


def test_every_answer_is_marked(tenant: Tenant) -> None:
    with tenant.http as http:
        for path in ("/v1/models", "/v1/nothing", "/healthz", "/openapi.json", "/nothing"):
            answer = http.get(path)
            assert answer.headers["x-request-id"].startswith("req_")
            assert answer.headers["openai-version"]
            assert int(answer.headers["openai-processing-ms"]) >= 0
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_routes_and_methods(tenant: Tenant) -> None:
    with tenant.http as http:
        missing = http.get("/v1/nothing")
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "unknown_url")
        method = http.put("/v1/models")
        assert (method.status_code, method.json()["error"]["code"]) == (405, "method_not_allowed")
        assert "GET" in method.headers["allow"]
        assert http.get("/v1/files/%00").json()["error"]["code"] == "invalid_url"
        assert http.get("/v1/files?after=%00").json()["error"]["code"] == "invalid_url"
        assert http.get("/v1/files?order=up").json()["error"]["param"] == "order"
        assert http.get("/v1/files/").status_code == 404


_NO_OBJECTS = [
    (b"[]", "application/json", "invalid_body"),
    (b'"text"', "application/json", "invalid_body"),
    (b"", "application/json", "invalid_body"),
    (b"{}", "text/plain", "invalid_body"),
    (b"{", "application/json", "invalid_json"),
    (b'{"seed": ' + b"9" * 5000 + b"}", "application/json", "invalid_json"),
    (b"\xff\xfe", "application/json", "invalid_json"),
    (b"[" * 100_000, "application/json", "invalid_json"),
    (b'{"model": "\\ud800", "training_file": "x"}', "application/json", "invalid_value"),
]


def test_bodies_that_are_no_object(tenant: Tenant) -> None:
    with tenant.http as http:
        for content, kind, code in _NO_OBJECTS:
            answer = http.post("/v1/fine_tuning/jobs", content=content, headers={"Content-Type": kind})
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, code), answer.text


def test_a_bug_shows_an_id_and_nothing_else(web: Place, tenant: Tenant) -> None:
    job_id = tenant.job()
    with web.database.begin() as session:
        session.get_one(Job, job_id).resolved = {"secret": "of the house"}
    answer = tenant.http.get(f"/v1/fine_tuning/jobs/{job_id}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert answer.headers["x-request-id"] in answer.text
    assert "house" not in answer.text


def test_the_description_covers_every_route(tenant: Tenant) -> None:
    described = tenant.http.get("/openapi.json").json()
    assert {"/v1/files", "/v1/fine_tuning/jobs/{fine_tuning_job_id}/events", "/v1/chat/completions"} <= set(
        described["paths"]
    )
    assert json.dumps(described)


def test_metrics_are_for_this_machine_and_operators(web: Place, tenant: Tenant) -> None:
    tenant.job()
    with web.client() as http:
        shown = http.get("/metrics").text
        assert 'attune_jobs{status="validating_files"}' in shown
        assert 'attune_batches{status="in_progress"}' in shown
        assert 'route="/v1/fine_tuning/jobs",status="200"' in shown
        proxied = {"X-Forwarded-For": "203.0.113.7"}
        assert http.get("/metrics", headers=proxied).status_code == 401
        with_key = {**proxied, "Authorization": f"Bearer {tenant.key}"}
        assert http.get("/metrics", headers=with_key).status_code == 403
        with_key["Authorization"] = f"Bearer {web.operator_key}"
        assert http.get("/metrics", headers=with_key).status_code == 200


def test_readiness_names_the_part_that_is_not(tmp_path_factory: pytest.TempPathFactory) -> None:
    with place(Settings(data_dir=tmp_path_factory.mktemp("ready"), log_level="error")) as web, web.client() as http:
        ready = http.get("/readyz")
        assert (ready.status_code, set(ready.json()["parts"].values())) == (200, {"ok"})
        with web.database.begin() as session:
            session.execute(text("UPDATE alembic_version SET version_num = 'older'"))
        objects = web.settings.data_dir / "objects"
        objects.rename(objects.with_name("away"))
        away = http.get("/readyz")
        assert away.status_code == 503
        assert away.json()["parts"]["database"] == "ok"
        assert "older" in away.json()["parts"]["migrations"]
        assert "gone" in away.json()["parts"]["storage"]
        assert http.get("/healthz").status_code == 200
        tenant = web.tenant()
        answer = tenant.http.post(
            "/v1/files", files={"file": ("a.jsonl", b'{"text": "x"}\n')}, data={"purpose": "fine-tune"}
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "storage_unavailable")
        assert int(answer.headers["retry-after"]) > 0
        assert tenant.http.get("/v1/models").json()["data"][0]["id"]
