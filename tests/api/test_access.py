"""Every route of the app, for every kind of caller: a route that is not in the table of scopes fails here."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from api.app import create_app
from api.gate.access import ADMIN, DEMANDS, INFERENCE, OPERATOR, READ, WRITE, routes_of
from core.access.projects import Scope
from core.settings import Settings
from tests.api.place import Place, Tenant

OPEN = {"GET /healthz", "GET /readyz", "GET /metrics"}  # metrics asks for an operator's key by itself
ALL = list(Scope)
METHODS = ("get", "post", "put", "patch", "delete")
CHANGE_LAST = ("GET", "POST", "PUT", "PATCH", "DELETE")


def routes() -> list[str]:
    """GET /v1/files/{file_id} …, as the app itself lists them."""
    paths: dict[str, dict[str, Any]] = create_app(Settings(), with_background=False).openapi()["paths"]
    return [f"{method.upper()} {path}" for path, of in paths.items() for method in of if method in METHODS]


def as_listed(name: str) -> str:
    """OpenAPI knows no `:path`."""
    return name.replace(":path}", "}")


SCOPES = {as_listed(name): scopes for name, scopes in DEMANDS.items()}
GUARDED = sorted((name for name in routes() if name not in OPEN), key=lambda name: CHANGE_LAST.index(name.split()[0]))


def test_every_route_is_in_the_table_and_nothing_else() -> None:
    assert sorted(SCOPES) == sorted(GUARDED)


def test_a_path_that_fits_two_lines_has_to_satisfy_both() -> None:
    found = routes_of("GET", "/v1/attune/models/a/files/b/download")
    assert [route.pattern for route in found] == [
        "/v1/attune/models/{model:path}/files/{path:path}",
        "/v1/attune/models/{model:path}/download",
    ]


class Own:
    """An owner with one of everything, and the calls that name it."""

    def __init__(self, web: Place, tenant: Tenant) -> None:
        self.file = tenant.upload()
        self.job = tenant.job(training_file=self.file, attune={"label": "here"})
        web.prepare(self.job)
        self.model = web.publish(web.start(self.job), 9, final=True)
        requests = tenant.openai.files.create(file=("batch.jsonl", b"{}"), purpose="batch").id
        with tenant.http as http:
            asked = {"input_file_id": requests, "endpoint": "/v1/completions", "completion_window": "24h"}
            self.batch = http.post("/v1/batches", json=asked).json()["id"]
            spare = http.post("/v1/attune/keys", json={"name": "spare"}).json()
        self.ids = {
            "file_id": self.file,
            "fine_tuning_job_id": self.job,
            "model": self.model,
            "path": "adapter_config.json",
            "key_id": spare["id"],
            "project_id": tenant.project_id,
            "permission_id": "cp_none",
            "batch_id": self.batch,
        }
        self.tenant = tenant

    def path(self, name: str) -> str:
        return re.sub(r"\{(\w+)\}", lambda match: self.ids.get(match[1], "none"), name.split()[1])


def ask(http: httpx.Client, name: str, path: str) -> httpx.Response:
    body = None if name.startswith(("GET", "DELETE")) else {}
    return http.request(name.split()[0], path, json=body)


@pytest.fixture
def own(web: Place) -> Own:
    return Own(web, web.tenant("owner", scopes=ALL))


def code_of(answer: httpx.Response) -> str | None:
    return answer.json()["error"]["code"] if answer.status_code >= 400 else None


def test_every_route_asks_for_a_key_in_force(web: Place, own: Own) -> None:
    """None, a revoked one, and one that has expired, with all scopes."""
    revoked = web.key(own.tenant.project_id, name="revoked", scopes=ALL)
    expired = web.key(own.tenant.project_id, name="expired", scopes=ALL, expires_in_s=1)
    with web.operator as http:
        keys = http.get("/v1/attune/keys", params={"project_id": own.tenant.project_id}).json()["data"]
        http.delete(f"/v1/attune/keys/{next(key['id'] for key in keys if key['name'] == 'revoked')}")
    with web.client(expired) as http:
        while http.get("/v1/models").status_code == 200:  # until its second is over
            pass
    for key in (None, revoked, expired):
        with web.client(key) as http:
            for name in GUARDED:
                answer = ask(http, name, own.path(name))
                assert (answer.status_code, code_of(answer)) == (401, "invalid_api_key"), (name, key)


@pytest.mark.parametrize("scope", ["read", "write", "inference", "admin"])
def test_a_key_does_what_its_scope_allows_and_no_more(web: Place, own: Own, scope: str) -> None:
    allowed = 0
    with web.client(web.key(own.tenant.project_id, scopes=[scope])) as http:
        for name in GUARDED:
            if name == "DELETE /v1/attune/keys/{key_id}":
                continue  # could end the very key
            answer = ask(http, name, own.path(name))
            if scope in SCOPES[name]:
                allowed += 1
                assert answer.status_code not in (401, 403), (name, answer.text)
            else:
                code = "operator_required" if SCOPES[name] == OPERATOR else "missing_scope"
                assert (answer.status_code, code_of(answer)) == (403, code), (name, answer.text)
    assert allowed >= {"read": 10, "write": 6, "inference": 3, "admin": 5}[scope]


def test_the_owner_reaches_everything_that_is_no_operators(web: Place, own: Own) -> None:
    with own.tenant.http as http:
        for name in GUARDED:
            answer = ask(http, name, own.path(name))
            if SCOPES[name] == OPERATOR:
                assert (answer.status_code, code_of(answer)) == (403, "operator_required"), name
            else:
                assert answer.status_code < 500, (name, answer.text)
                assert answer.status_code not in (401, 403, 405), (name, answer.text)
                params = set(re.findall(r"\{(\w+)\}", name))
                has_all = params <= own.ids.keys() - {"permission_id"} and "base_models" not in name
                assert answer.status_code != 404 or not has_all, (name, answer.text)


def test_the_table_speaks_of_each_scope() -> None:
    assert {READ, WRITE, INFERENCE, ADMIN, OPERATOR} <= set(DEMANDS.values())


def test_unknown_urls_and_methods_answer_as_such(web: Place, tenant: Tenant) -> None:
    with tenant.http as http:
        assert code_of(http.get("/v1/nonsense")) == "unknown_url"
        answer = http.put("/v1/files")
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")
