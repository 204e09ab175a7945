"""The API's description at /openapi.json: FastAPI's, with what it leaves out. The repository holds it as a file.

Written by `python -m api.openapi FILE`: what every route may answer, whom it wants to see a key from, examples.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field

from api.openapi_examples import example

Description = dict[str, Any]
BINARY: Description = {"schema": {"type": "string", "format": "binary"}}
# For the `responses` of a route that hands out an object (api.bodies.download)
DOWNLOAD: dict[int | str, Description] = {
    200: {"description": "The whole file", "content": {"application/octet-stream": BINARY}},
    206: {"description": "The range asked for", "content": {"application/octet-stream": BINARY}},
    304: {"description": "Not modified since the ETag given in If-None-Match"},
    416: {"description": "The range starts beyond the end"},
}
ZIP: dict[int | str, Description] = {
    **DOWNLOAD,
    200: {"description": "The whole archive", "content": {"application/zip": BINARY}},
    206: {"description": "The range asked for", "content": {"application/zip": BINARY}},
    307: {"description": "The store's own address of the file, signed for an hour"},
}
FILE: dict[int | str, Description] = {**DOWNLOAD, 307: ZIP[307]}
TEXT: dict[int | str, Description] = {
    200: {"description": "Plain text", "content": {"text/plain": {"schema": {"type": "string"}}}}
}
_FIELDS = {"id": "string", "object": "string", "created": "integer", "model": "string"}
_COMPLETION: Description = {
    "type": "object",
    "required": [*_FIELDS, "choices"],
    "properties": {
        **{name: {"type": kind} for name, kind in _FIELDS.items()},
        "choices": {"type": "array", "items": {"type": "object"}},
    },
}
EVENTS: Description = {"schema": {"type": "string"}}
# For the `responses` of a route that answers with JSON, or with an event stream where `stream` is true
COMPLETION: dict[int | str, Description] = {
    200: {
        "description": "The completion; with `stream`, its chunks as server-sent events, and [DONE] at the end",
        "content": {"application/json": {"schema": _COMPLETION}, "text/event-stream": EVENTS},
    }
}
_ANY = {
    "400": "What was sent is not right; the message says what to change",
    "413": "The body is larger than this place takes",
    "415": "The body is compressed, or not of a kind that is taken here",
    "500": "A fault of the service; its log holds the rest under the request's id",
    "503": "Not now: try again after Retry-After seconds",
}
_KEYED = {
    **_ANY,
    "401": "No key, or none that is known here",
    "403": "The key may not do this",
    "404": "There is no such thing in this project",
    "408": "The body came too slowly",
    "429": "Too many requests: try again after Retry-After seconds",
}
_METHODS = ("get", "post", "put", "patch", "delete")


class Problem(BaseModel):
    """What is wrong, in words and in a code; `param` names the field at fault."""

    message: str
    type: str
    param: str | None = Field(...)
    code: str | None = Field(...)


class ErrorBody(BaseModel):
    error: Problem


def operation_id(route: APIRoute) -> str:
    """The endpoint's own name, as generated clients will call it; marked where a route of OpenAI's is ours too."""
    return f"attune_{route.name}" if route.path.startswith("/v1/attune/webhook_") else route.name


def install(app: FastAPI) -> None:
    def describe() -> Description:
        if app.openapi_schema is None:
            app.openapi_schema = _describe(app)
        return app.openapi_schema

    app.openapi = describe


def _describe(app: FastAPI) -> Description:
    found = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    components = found["components"]
    schemas = components["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)  # ours are 400, and of another shape
    inner = ErrorBody.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(inner.pop("$defs"), Error=inner)
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer", "description": "A project's key"}}
    components["responses"] = {status: _failure(text, schemas) for status, text in _KEYED.items()}
    for path, operation in _operations(found):
        _complete(path, operation, schemas)
    return found


def _operations(found: Description) -> Iterator[tuple[str, Description]]:
    for path, item in found["paths"].items():
        for method in _METHODS:
            if method in item:
                yield path, item[method]


def _failure(text: str, schemas: Description) -> Description:
    schema = {"$ref": "#/components/schemas/Error"}
    body = {"schema": schema, "example": example(schema, schemas)}
    return {"description": text, "content": {"application/json": body}}


def _complete(path: str, operation: Description, schemas: Description) -> None:
    answers = operation["responses"]
    answers.pop("422", None)
    is_keyed = path.startswith("/v1/")
    for status in _KEYED if is_keyed else _ANY:
        answers.setdefault(status, {"$ref": f"#/components/responses/{status}"})
    if is_keyed:
        operation["security"] = [{"key": []}]
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    for status, answer in answers.items():
        if "$ref" not in answer and int(status) >= 400:
            answer.setdefault("content", error)
    operation["responses"] = dict(sorted(answers.items()))
    for body in _bodies(answers.get("200", {})):
        body.setdefault("example", example(body["schema"], schemas))
    for body in _bodies(operation.get("requestBody", {})):
        body.setdefault("example", example(body["schema"], schemas, required_only=True))


def _bodies(message: Description) -> Iterator[Description]:
    for kind, body in message.get("content", {}).items():
        if kind == "application/json" and body.get("schema"):
            yield body


def main() -> None:
    from api.app import app  # not above: it imports this module

    Path(sys.argv[1]).write_text(json.dumps(app.openapi(), indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
