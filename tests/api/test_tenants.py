"""Tenants: the whole matrix of callers, routes and objects; and an erased project leaves nothing."""

from __future__ import annotations

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from api.app import create_app
from core.access import tenancy
from tests.api.place import Place, examples, running
from tests.fuzz import tenant_matrix


def test_nobody_reaches_what_is_anothers(web: Place) -> None:
    matrix = tenant_matrix.tried(web)
    assert matrix.leaks == []
    assert matrix.wrong == []
    assert matrix.cells >= 7 * matrix.routes  # each of seven callers at each route at least once


def test_a_route_that_nobody_thought_of_stops_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(tenant_matrix.DEMANDED, "GET /v1/files")
    with pytest.raises(KeyError):
        tenant_matrix.routes()


def test_a_request_that_begins_in_anothers_context_is_its_own(web: Place) -> None:
    """A proxy's connection carries several tenants, and asyncio may begin a request in the context of the last."""
    tenant = web.tenant()
    file_id = tenant.upload()
    app = create_app(web.settings, with_background=False)

    async def leaking(scope: Scope, receive: Receive, send: Send) -> None:
        with tenancy.within("proj_another" if scope["type"] == "http" else tenancy.EVERY):
            await app(scope, receive, send)

    headers = {"Authorization": f"Bearer {tenant.key}"}
    with running(leaking) as url, httpx.Client(base_url=url, headers=headers, trust_env=False) as http:
        assert [file["id"] for file in http.get("/v1/files").json()["data"]] == [file_id]


def test_an_erased_project_leaves_nothing(web: Place) -> None:
    tenant, neighbour = web.tenant("leaving"), web.tenant("staying")
    kept = neighbour.upload()
    ended = tenant.job(attune={"label": "here"})
    web.prepare(ended)
    web.publish(web.start(ended), 9, final=True)
    held = tenant.job(attune={"label": "here"})
    web.prepare(held)
    claim = web.start(held)
    with web.operator as http:
        busy = http.delete(f"/v1/attune/projects/{tenant.project_id}")
        assert (busy.status_code, busy.json()["error"]["code"]) == (503, "project_busy")
        assert int(busy.headers["retry-after"]) > 0
        assert tenant.http.get("/v1/files").status_code == 401  # closed at once
        web.give_up(claim)
        assert http.delete(f"/v1/attune/projects/{tenant.project_id}").json()["deleted"]
        assert http.delete(f"/v1/attune/projects/{tenant.project_id}").status_code == 404
    assert tenant.left() == (0, 0)
    assert neighbour.openai.files.content(kept).read() == examples(12)
