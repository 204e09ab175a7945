"""The audit log: every call that may change something, once, before its answer; and nobody rewrites it."""

from __future__ import annotations

import socket
import time
from typing import Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from core.access.projects import Scope
from core.upkeep import cleaning
from tests.api.place import BASE, Place, Tenant

DAY_S = 24 * 3600


@pytest.fixture
def led(web: Place) -> Tenant:
    return web.tenant("led", scopes=list(Scope))


def entries(tenant: Tenant, **query: Any) -> list[dict[str, Any]]:
    with tenant.http as http:
        return http.get("/v1/attune/audit_log", params={"limit": 100, **query}).json()["data"]


def test_every_change_has_a_row_with_its_object(web: Place, led: Tenant) -> None:
    start = len(entries(led))  # making its key
    file_id = led.upload()
    with led.http as http:
        created = http.post("/v1/fine_tuning/jobs", json={"model": BASE, "training_file": file_id})
        job_id = created.json()["id"]
        http.get(f"/v1/fine_tuning/jobs/{job_id}")
        http.post("/v1/chat/completions", json={"model": BASE, "messages": [{"role": "user", "content": "x"}]})
        http.post(f"/v1/fine_tuning/jobs/{job_id}/cancel")
        http.delete(f"/v1/files/{file_id}")
        http.delete(f"/v1/files/{file_id}")
        http.post("/v1/fine_tuning/jobs", json={})
        http.post("/v1/attune/projects", json={"name": "x"})
        made = http.post("/v1/attune/keys", json={"name": "bot", "scopes": ["read"]}).json()
    with web.client(made["key"]) as http:
        http.delete("/v1/models/ft:none")
    rows = entries(led)
    seen = [(row["method"], row["route"], row["object_id"], row["status"]) for row in reversed(rows)][start:]
    assert seen == [
        ("POST", "/v1/files", file_id, 200),
        ("POST", "/v1/fine_tuning/jobs", job_id, 200),
        ("POST", "/v1/fine_tuning/jobs/{fine_tuning_job_id}/cancel", job_id, 200),
        ("DELETE", "/v1/files/{file_id}", file_id, 200),
        ("DELETE", "/v1/files/{file_id}", file_id, 404),
        ("POST", "/v1/fine_tuning/jobs", None, 400),
        ("POST", "/v1/attune/projects", None, 403),
        ("POST", "/v1/attune/keys", made["id"], 200),
        ("DELETE", "/v1/models/{model:path}", "ft:none", 403),
    ]
    assert created.headers["x-request-id"] in {row["request_id"] for row in rows}
    assert {row["project_id"] for row in rows} == {led.project_id}
    assert (rows[0]["key_id"], rows[0]["key_name"], rows[0]["is_operator"]) == (made["id"], "bot", False)
    assert made["key"] not in str(rows)


def test_an_operators_work_stands_in_the_project_that_it_concerns(web: Place, led: Tenant) -> None:
    web.key(led.project_id)
    newest = entries(led)[0]
    assert (newest["route"], newest["is_operator"], newest["key_name"]) == ("/v1/attune/keys", True, "first operator")


def test_pages_go_back_without_gap(web: Place, led: Tenant) -> None:
    with led.http as http:
        for _ in range(5):
            http.delete("/v1/files/file-x")
        whole = [row["id"] for row in entries(led)]
        walked: list[str] = []
        query: dict[str, Any] = {"limit": 2}
        while True:
            page = http.get("/v1/attune/audit_log", params=query).json()
            walked += [row["id"] for row in page["data"]]
            assert page["last_id"] == page["data"][-1]["id"]
            if not page["has_more"]:
                break
            query["after"] = page["last_id"]
        assert walked == whole
        foreign = web.tenant("other", scopes=["admin"])
        assert foreign.http.get("/v1/attune/audit_log", params={"after": whole[0]}).status_code == 400
        assert foreign.http.get("/v1/attune/audit_log", params={"project_id": led.project_id}).status_code == 404
        assert not {row["id"] for row in entries(foreign)} & set(whole)
    with web.operator as http:
        theirs = http.get("/v1/attune/audit_log", params={"project_id": led.project_id, "limit": 100}).json()["data"]
        assert [row["id"] for row in theirs] == whole
        everyone = http.get("/v1/attune/audit_log", params={"limit": 100}).json()["data"]
        assert len({row["project_id"] for row in everyone}) > 1


def test_the_database_keeps_what_was_logged_until_it_is_old(web: Place, led: Tenant) -> None:
    led.http.delete("/v1/files/file-x")
    young = entries(led)
    mine = {"project": led.project_id}
    for statement in (
        "UPDATE audit_log SET status = 200 WHERE project_id = :project",
        "DELETE FROM audit_log WHERE project_id = :project",
    ):
        with pytest.raises(DBAPIError, match="append-only"), web.database.begin() as session:
            session.execute(text(statement), mine)
    with web.database.begin() as session:
        copied = (
            "INSERT INTO audit_log (id, created_at, project_id, key_id, key_name, is_operator, method, route, "
            "object_id, status, request_id) SELECT 'old-' || id, created_at - :age, project_id, key_id, key_name, "
            "is_operator, method, route, object_id, status, request_id FROM audit_log WHERE project_id = :project"
        )
        session.execute(text(copied), {"age": 30 * DAY_S, **mine})
    assert len(entries(led)) == 2 * len(young)
    assert cleaning.forget_audited(web.database, 31) == 0
    assert cleaning.forget_audited(web.database, 29) == len(young)
    assert entries(led) == young


def test_a_client_that_leaves_is_logged_as_such(web: Place, led: Tenant) -> None:
    """An upload that breaks off: nothing was stored, and somebody tried."""
    parts = urlsplit(web.url)
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall(
            f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {led.key}\r\nContent-Length: 9999\r\n"
            "Content-Type: multipart/form-data; boundary=x\r\n\r\n".encode()
            + head
        )
    deadline = time.monotonic() + 10
    while (newest := entries(led)[0])["route"] != "/v1/files":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert newest["status"] == 499
