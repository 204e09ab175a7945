"""The API's description: as committed, whole, true to its own examples; and the pages that show it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from api.app import create_app
from core.settings import Settings
from tests.api.place import Place, Tenant

COMMITTED = Path(__file__).parents[2] / "openapi.json"


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    return create_app(Settings()).openapi()


def operations(described: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in described["paths"].items():
        for method, operation in item.items():
            yield f"{method.upper()} {path}", operation


def test_the_committed_file_is_what_is_served(described: dict[str, Any], web: Place) -> None:
    assert json.loads(COMMITTED.read_text()) == described, "run `make openapi` and look at the difference"
    with web.client() as http:
        assert http.get("/openapi.json").json() == described


def test_every_operation_has_an_id_of_its_own(described: dict[str, Any]) -> None:
    ids = [operation["operationId"] for _, operation in operations(described)]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in ids)


def test_every_operation_tells_its_errors_and_who_may_ask(described: dict[str, Any]) -> None:
    for where, operation in operations(described):
        statuses = operation["responses"].keys()
        assert "422" not in statuses, where
        assert {"400", "413", "500", "503"} <= statuses, where
        if " /v1/" in where:
            assert {"401", "403", "404", "408", "415", "429"} <= statuses, where
            assert operation["security"] == [{"key": []}], where


def test_every_body_has_an_example_that_is_valid(described: dict[str, Any]) -> None:
    for where, operation in operations(described):
        answer = operation["responses"].get("200", operation["responses"].get("201", {}))
        for message in (operation.get("requestBody", {}), answer):
            for kind, body in message.get("content", {}).items():
                if kind != "application/json" or not body["schema"]:
                    continue
                schema = {**body["schema"], "components": described["components"]}
                errors = list(Draft202012Validator(schema).iter_errors(body["example"]))
                assert not errors, (where, errors[0])
    for name, answer in described["components"]["responses"].items():
        body = answer["content"]["application/json"]
        assert body["example"]["error"].keys() == {"message", "type", "param", "code"}, name


def test_the_pages_load_nothing_from_elsewhere(web: Place) -> None:
    with web.client() as http:
        page = http.get("/docs")
        policy = page.headers["content-security-policy"]
        assert page.status_code == httpx.codes.OK
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy
        linked = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert len(linked) == 4
        for link in linked:
            asset = http.get(f"/{link}")
            assert asset.status_code == httpx.codes.OK, link
            assert asset.content
        assert "<script>" not in page.text  # inline, and so refused by the policy
        assert 'url: "openapi.json"' in http.get("/docs/start.js").text
        assert http.get("/docs/other.js").status_code == httpx.codes.NOT_FOUND


def test_what_the_pages_send_is_an_ordinary_request(described: dict[str, Any], tenant: Tenant) -> None:
    """A key given under Authorize travels as the scheme says."""
    assert described["components"]["securitySchemes"]["key"]["type"] == "http"
    assert described["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert tenant.openai.models.list().data
