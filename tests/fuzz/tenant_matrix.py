"""Every caller by every route of openapi.json by every object: what is one's own, another tenant's, and nobody's.

A route, or a parameter of one, that this page does not know stops the run. A foreign id has to answer as one that was
never given out does, byte for byte.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from api.gate.access import DEMANDS, OPERATOR
from core.access.projects import Scope
from core.webhooks import queue as webhook_queue
from tests.api.place import BASE, Place, Tenant
from tests.fuzz.subject import END, FORM, part

OPENAPI = Path(__file__).parent.parent.parent / "openapi.json"
OPEN = ("/healthz", "/readyz", "/metrics")  # test_methods and test_access speak of these
LAST = ("GET", "POST", "PUT", "PATCH", "DELETE")  # what ends an object comes after what uses it
DEMANDED = {name.replace(":path}", "}"): scopes for name, scopes in DEMANDS.items()}
RANDOM = "0" * 8


@dataclass(frozen=True)
class Belongings:
    """A tenant with one of everything. `ids`: by the names that paths give them."""

    tenant: Tenant
    ids: dict[str, str]

    def unknown(self, text: str) -> str:
        """`text` with ids of the same form that were never given out."""
        for known in sorted(self.ids.values(), key=len, reverse=True):
            if len(known) > 16:  # base models and paths are nobody's
                text = text.replace(known, known[: -len(RANDOM)] + RANDOM)
        return text


@dataclass
class Matrix:
    cells: int = 0
    leaks: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)  # refused where it must not be, or the other way, or broken
    routes: int = 0


def belongings(web: Place, name: str) -> Belongings:
    tenant = web.tenant(name, scopes=list(Scope))
    hook = {"name": "x", "url": "http://127.0.0.1:9/", "event_types": ["fine_tuning.job.succeeded"]}
    with tenant.http as http:

        def made(path: str, body: dict[str, Any]) -> dict[str, Any]:
            answer = http.post(path, json=body)
            assert answer.status_code == 200, answer.text
            return answer.json()

        endpoint = made("/v1/attune/webhook_endpoints", hook)["id"]
        file_id = tenant.upload()
        job_id = tenant.job(training_file=file_id, attune={"label": "here"})
        web.prepare(job_id)
        model = web.publish(web.start(job_id), 9, final=True)
        with web.database.begin() as session:
            webhook_queue.spread(session)
        deliveries = http.get(f"/v1/attune/webhook_endpoints/{endpoint}/deliveries").json()["data"]
        upload = {"filename": "a.jsonl", "purpose": "fine-tune", "bytes": 10, "mime_type": "text/jsonl"}
        requests = tenant.openai.files.create(file=("batch.jsonl", b"{}"), purpose="batch").id
        asked = {"input_file_id": requests, "endpoint": "/v1/completions", "completion_window": "24h"}
        table = tenant.openai.files.create(file=("a.csv", b"prompt,completion\nx,y\n"), purpose="user_data").id
        guest = web.tenant("guest").project_id
        path = f"/v1/fine_tuning/checkpoints/{model}/permissions"
        ids = {
            "file_id": file_id,
            "upload_id": made("/v1/uploads", upload)["id"],
            "fine_tuning_job_id": job_id,
            "batch_id": made("/v1/batches", asked)["id"],
            "model": model,
            "path": "adapter_config.json",
            "alias": made("/v1/attune/aliases", {"id": f"alias-of-{job_id}", "model": model})["id"],
            "key_id": made("/v1/attune/keys", {"name": "spare"})["id"],
            "project_id": tenant.project_id,
            "permission_id": made(path, {"project_ids": [guest]})["data"][0]["id"],
            "webhook_endpoint_id": endpoint,
            "webhook_delivery_id": deliveries[0]["id"],
            "server_id": "no-such-server",
            "completion_id": "chatcmpl-none",  # none is kept
            "part": "training",  # of the sample data, which is everybody's
            "conversion_id": made("/v1/attune/conversions", {"file_id": table})["id"],
            "report_id": made("/v1/attune/reports", {"file_id": file_id})["id"],
            "repair_id": made("/v1/attune/repairs", {"file_id": file_id, "repairs": ["drop_duplicates"]})["id"],
            "split_id": made("/v1/attune/splits", {"file_id": file_id})["id"],
        }
        events = http.get(f"/v1/fine_tuning/jobs/{job_id}/events").json()["data"]
    return Belongings(tenant, {**ids, "event_id": events[0]["id"]})


def routes() -> list[str]:
    """GET /v1/files/{file_id} …, as openapi.json lists them. Raises KeyError for one that nobody has thought of."""
    paths: dict[str, dict[str, Any]] = json.loads(OPENAPI.read_text())["paths"]
    found = [f"{method.upper()} {path}" for path, methods in paths.items() if path not in OPEN for method in methods]
    for name in found:
        DEMANDED[name]
    return sorted(found, key=lambda name: (LAST.index(name.split()[0]), "/projects/" in name))


def calls(name: str, ids: dict[str, str], own_file: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(path, what goes with it) of each way in which a route can name an object of `ids`."""
    method, pattern = name.split()
    path = re.sub(r"\{(\w+)\}", lambda match: ids[match[1]], pattern)
    file_id, model = ids["file_id"], ids["model"]
    bodies: dict[str, list[dict[str, Any]]] = {
        "POST /v1/fine_tuning/jobs": [
            {"model": BASE, "training_file": file_id},
            {"model": BASE, "training_file": own_file, "validation_file": file_id},
            {"model": model, "training_file": own_file},
        ],
        "POST /v1/attune/plans": [{"model": BASE, "training_file": file_id}],
        "POST /v1/attune/conversions": [{"file_id": file_id}],
        "POST /v1/attune/conversions/preview": [{"file_id": file_id}],
        "POST /v1/attune/reports": [{"file_id": file_id}],
        "POST /v1/attune/repairs": [{"file_id": file_id, "repairs": ["drop_duplicates"]}],
        "POST /v1/attune/splits": [{"file_id": file_id}],
        "POST /v1/batches": [{"input_file_id": file_id, "endpoint": "/v1/completions", "completion_window": "24h"}],
        "POST /v1/chat/completions": [{"model": model, "messages": [{"role": "user", "content": "x"}]}],
        "POST /v1/completions": [{"model": model, "prompt": "x"}],
        "POST /v1/attune/aliases": [{"id": "another-name", "model": model}],
        "POST /v1/attune/aliases/{alias}": [{"model": model}],
        "POST /v1/attune/keys": [{"name": "x", "project_id": ids["project_id"]}],
        "POST /v1/fine_tuning/checkpoints/{model}/permissions": [{"project_ids": [ids["project_id"]]}],
        "POST /v1/uploads/{upload_id}/complete": [{"part_ids": ["part_none"]}],
    }
    if name == "POST /v1/uploads/{upload_id}/parts":
        yield path, {"content": part("data", b"x", b"x") + END, "headers": {"Content-Type": FORM}}
    elif method in ("POST", "PATCH"):
        for body in bodies.get(name, [{}]):
            yield path, {"json": body}
    else:
        yield path, {}
    # (aliases are paged by name, and any name is a place in the alphabet)
    cursors = {
        "GET /v1/files": file_id,
        "GET /v1/fine_tuning/jobs": ids["fine_tuning_job_id"],
        "GET /v1/batches": ids["batch_id"],
        "GET /v1/webhook_endpoints": ids["webhook_endpoint_id"],
        "GET /v1/attune/webhook_endpoints": ids["webhook_endpoint_id"],
    }
    if name in cursors:
        yield path, {"params": {"after": cursors[name]}}
    if name in ("GET /v1/attune/keys", "GET /v1/attune/audit_log"):
        yield path, {"params": {"project_id": ids["project_id"]}}


def tried(web: Place) -> Matrix:
    """The whole matrix against one running web side."""
    matrix = Matrix(routes=len(routes()))
    owner = belongings(web, "owner")
    _shut_out(web, matrix, owner)
    another_tenant(web, matrix, owner)
    _own_project(web, matrix, owner.tenant.key, "owner", set(Scope), owner)
    limited = belongings(web, "limited")
    read = web.key(limited.tenant.project_id, scopes=["read"])
    _own_project(web, matrix, read, "key to read", {Scope.READ}, limited)
    rest = web.key(limited.tenant.project_id, scopes=["write", "inference", "admin"])
    _own_project(web, matrix, rest, "key to write", set(Scope) - {Scope.READ}, limited)
    visited = belongings(web, "visited")
    _own_project(web, matrix, web.operator_key, "operator", None, visited)
    return matrix


def _send(http: httpx.Client, name: str, path: str, more: dict[str, Any]) -> httpx.Response:
    return http.request(name.split()[0], path, **more)


def _judge(matrix: Matrix, is_right: bool, who: str, name: str, answer: httpx.Response) -> None:
    matrix.cells += 1
    if not is_right:
        matrix.wrong.append(f"{who}: {name} answers {answer.status_code} {answer.text[:160]}")


def _shut_out(web: Place, matrix: Matrix, owner: Belongings) -> None:
    """No key, and a revoked one with every scope: 401 before anything else."""
    project = owner.tenant.project_id
    revoked = web.key(project, name="revoked", scopes=list(Scope))
    with web.operator as http:
        keys = http.get("/v1/attune/keys", params={"project_id": project}).json()["data"]
        http.delete(f"/v1/attune/keys/{next(key['id'] for key in keys if key['name'] == 'revoked')}")
    for who, key in (("none", None), ("revoked key", revoked)):
        with web.client(key) as http:
            for name in routes():
                for path, more in calls(name, owner.ids, owner.ids["file_id"]):
                    answer = _send(http, name, path, more)
                    _judge(matrix, answer.status_code == 401, who, name, answer)


def another_tenant(web: Place, matrix: Matrix, owner: Belongings) -> None:
    """With every scope in its own project: what is foreign answers as what is not there."""
    other = web.tenant("other", scopes=list(Scope))
    own_file = other.upload()
    secret = [known for known in owner.ids.values() if len(known) > 16]
    with other.http as http:
        for name in routes():
            for path, more in calls(name, owner.ids, own_file):
                answer = _send(http, name, path, more)
                matrix.cells += 1
                if DEMANDED[name] == OPERATOR:
                    if answer.status_code != 403:
                        matrix.leaks.append(f"another tenant: {name} answers {answer.status_code}")
                    continue
                names_foreign = any(known in path + json.dumps(more, default=str) for known in secret)
                if not names_foreign:
                    if any(known in answer.text for known in secret):
                        matrix.leaks.append(f"another tenant: {name} lists what is foreign")
                    continue
                random = _send(http, name, owner.unknown(path), _unknown(owner, more))
                if (random.status_code, random.text) != (answer.status_code, owner.unknown(answer.text)):
                    matrix.leaks.append(f"another tenant: {name} tells {answer.text[:160]} from {random.text[:160]}")
                elif not 400 <= answer.status_code < 500:
                    matrix.leaks.append(f"another tenant: {name} answers {answer.status_code} {answer.text[:160]}")


def _unknown(owner: Belongings, more: dict[str, Any]) -> dict[str, Any]:
    return more if "content" in more else json.loads(owner.unknown(json.dumps(more)))


def _own_project(web: Place, matrix: Matrix, key: str, who: str, scopes: set[Scope] | None, mine: Belongings) -> None:
    """In its own project a key does what its scopes allow, and no more. `scopes` None: an operator's key."""
    spare = mine.tenant.upload()
    with web.client(key) as http:
        if scopes is None:
            http.headers["OpenAI-Project"] = mine.tenant.project_id
        for name in routes():
            demanded = DEMANDED[name]
            for path, more in calls(name, mine.ids, spare):
                answer = _send(http, name, path, more)
                if scopes is None or (demanded != OPERATOR and scopes & set(demanded)):
                    is_right = answer.status_code not in (401, 403, 405, 500)
                    if name.startswith("GET") and "base_models/" not in name and "{completion_id}" not in name:
                        is_right = is_right and (answer.status_code == 200 or name.endswith("/log"))
                else:
                    code = "operator_required" if demanded == OPERATOR else "missing_scope"
                    is_right = answer.status_code == 403 and answer.json()["error"]["code"] == code
                _judge(matrix, is_right, who, name, answer)
