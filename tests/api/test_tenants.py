"""Tenants: the whole matrix of callers, routes and objects; and an erased project leaves nothing."""

from __future__ import annotations

import pytest

from tests.api.place import Place, examples
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


def test_one_connection_may_carry_several_tenants(web: Place) -> None:
    """As a proxy's does. Reading that was paused in one request goes on in its context, and may begin the next."""
    first, second = web.tenant("first"), web.tenant("second")
    owned = {tenant.key: tenant.upload() for tenant in (first, second)}
    large = {"file": ("large.jsonl", examples(60_000))}
    with web.client() as http:
        for key, file_id in [*owned.items(), *owned.items()]:
            headers = {"Authorization": f"Bearer {key}"}
            uploaded = http.post("/v1/files", headers=headers, data={"purpose": "fine-tune"}, files=large)
            assert uploaded.status_code == 200, uploaded.text
            listed = http.get("/v1/files", headers=headers).json()["data"]
            assert file_id in [file["id"] for file in listed]
            assert not {file["id"] for file in listed} & (set(owned.values()) - {file_id})


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
