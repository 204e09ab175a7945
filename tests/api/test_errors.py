"""The envelope on every failure, headers on every answer, and health as machines ask for it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import anyio
import httpx
import pytest
from anyio import to_thread
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from sqlalchemy import text
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send
from structlog.contextvars import get_contextvars
from structlog.testing import CapturingLogger

from api.errors import install
from api.gate.edge import Edge
from api.metrics import Requests
from core.errors import Unavailable
from core.models import Job
from core.settings import Settings
from core.store.storage import StorageCorrupt
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


def test_what_is_logged_on_the_way_holds_the_requests_id() -> None:
    held: list[dict[str, str]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        held.append(await to_thread.run_sync(get_contextvars))  # where the database is asked
        await PlainTextResponse("ok")(scope, receive, send)

    async def ask() -> list[str]:
        transport = httpx.ASGITransport(Edge(app, Requests()))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
            return [(await http.get("/")).headers["x-request-id"] for _ in range(2)]

    request_ids = anyio.run(ask)
    assert held == [{"request_id": request_id} for request_id in request_ids]
    assert get_contextvars() == {}


@pytest.mark.parametrize(
    "failure",
    [StorageCorrupt("its bytes are others"), Unavailable("The object storage does not answer.", code="away")],
    ids=lambda failure: type(failure).__name__,
)
def test_a_store_that_fails_in_the_middle_of_a_download_is_no_bug(
    failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"half"
        raise failure

    app = FastAPI()
    install(app)
    app.get("/content")(lambda: StreamingResponse(chunks()))
    sent: list[Message] = []

    async def ask() -> None:
        async def receive() -> Message:
            await anyio.sleep_forever()
            raise AssertionError

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": "/content", "headers": [], "query_string": b""}
        await Edge(app, Requests())(scope, receive, send)

    log = CapturingLogger()
    monkeypatch.setattr("api.gate.edge.log", log)
    anyio.run(ask)
    assert [message.get("body") for message in sent] == [None, b"half"]  # no end: the connection has to break
    assert [
        (call.method_name, call.args, call.kwargs.get("why")) for call in log.calls if call.method_name != "debug"
    ] == [("warning", ("answer_broken_off",), str(failure))]


def test_every_refusal_is_counted_by_its_code(tenant: Tenant, web: Place) -> None:
    """Wherever it is decided: before the body, in its form, or in the answer itself."""
    codes = ("invalid_api_key", "unknown_url", "missing_required_parameter", "fine_tune_not_found", "invalid_json")

    def counted() -> dict[str, float]:
        with web.client() as http:
            found = re.findall(r'attune_http_errors_total{code="(\w+)",status="\d+"} (\S+)', http.get("/metrics").text)
        return {code: float(number) for code, number in found}

    before = counted()
    with web.client("no-key") as http:
        http.get("/v1/files")
    with tenant.http as http:
        http.get("/v1/nothing")
        http.post("/v1/fine_tuning/jobs", json={})
        http.get("/v1/fine_tuning/jobs/ftjob-none")
        http.post("/v1/fine_tuning/jobs", content=b"{", headers={"Content-Type": "application/json"})
    after = counted()
    assert {code: after.get(code, 0) - before.get(code, 0) for code in codes} == dict.fromkeys(codes, 1.0)


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
