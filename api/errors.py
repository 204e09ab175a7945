"""Every failure in OpenAI's envelope: what is wrong, where, and whether the same call may succeed later.

The official clients repeat 408, 409, 429 and 5xx by themselves; `x-should-retry: false` tells them what is final.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from core.errors import AttuneError, QuotaReached

log = structlog.get_logger()
PASSING = (408, 429)  # client errors that the same call may get over
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
MAX_RETRY_AFTER_S = 120  # a client that is told to wait longer does not try again at all
_SHOWN_INPUT = 60  # characters of a wrong value


class NotAllowed(AttuneError):
    """`allowed`: the methods to use instead."""

    def __init__(self, method: str, path: str, allowed: str) -> None:
        message = f"Not allowed: {method} {path[:200]}. Use {allowed}."
        super().__init__(message, code="method_not_allowed", status=405)
        self.allowed = allowed


def envelope(error: AttuneError) -> dict[str, dict[str, str | None]]:
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}


def error_response(error: AttuneError, headers: Mapping[str, str] | None = None) -> JSONResponse:
    sent = dict(headers or {})
    if error.retry_after_s is not None:
        sent["retry-after"] = str(min(max(1, math.ceil(error.retry_after_s)), MAX_RETRY_AFTER_S))
    is_final = error.retry_after_s is None and error.status < 500 and error.status not in PASSING
    if is_final or isinstance(error, QuotaReached):
        sent["x-should-retry"] = "false"
    if isinstance(error, NotAllowed):
        sent["Allow"] = error.allowed
    if error.status == 401:
        sent["www-authenticate"] = "Bearer"
    return JSONResponse(envelope(error), status_code=error.status, headers=sent)


def internal_error(request_id: str) -> AttuneError:
    """What is shown of a bug: an id under which the log holds the rest."""
    message = f"The server had an error while processing your request; its log tells more under {request_id}."
    return AttuneError(message, code="internal_error", status=500, type="server_error")


def unknown_url(method: str, path: str) -> AttuneError:
    return AttuneError(f"Unknown request URL: {method} {path[:200]}.", code="unknown_url", status=404)


def install(app: FastAPI) -> None:
    app.add_exception_handler(AttuneError, _on_attune_error)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)


async def _on_attune_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, AttuneError)
    request.state.error_code = error.code  # for the edge, which counts it
    return error_response(error)


async def _on_validation(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return error_response(invalid(cast(Sequence[Mapping[str, Any]], error.errors()), error.body))


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    """Starlette's own refusals, in our words."""
    assert isinstance(error, HTTPException)
    cause = error.__cause__
    if isinstance(cause, AttuneError):  # FastAPI wraps what reading the body raised
        return error_response(cause)
    if error.status_code == 404:
        found = unknown_url(request.method, request.url.path)
    elif error.status_code == 405:
        allowed = ", ".join(_methods(request))
        return error_response(NotAllowed(request.method, request.url.path, allowed), {"allow": allowed})
    elif error.status_code == 400 and cause is not None:
        found = AttuneError(f"We could not parse the JSON body of your request: {cause}", code="invalid_json")
    else:
        found = AttuneError(str(error.detail), status=error.status_code)
    return error_response(found, error.headers)


def _methods(request: Request) -> list[str]:
    """What the path takes. (Starlette names the first of its routes alone, and each has one method.)"""
    app = cast(FastAPI, request.app)
    return [
        method
        for method in _METHODS
        if any(route.matches({**request.scope, "method": method})[0] == Match.FULL for route in app.routes)
    ]


def invalid(errors: Sequence[Mapping[str, Any]], body: object) -> AttuneError:
    """The first field that does not validate, with everything wrong about it.

    `errors`: pydantic's. A field that takes a number or "auto" fails once for each; both are told together.
    """
    first = errors[0]
    param = _param(first, body)
    alike = [error for error in errors if _param(error, body) == param]
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", "it is not JSON")
        message = f"We could not parse the JSON body of your request: {reason} at character {first['loc'][-1]}."
        return AttuneError(message, code="invalid_json")
    if param is None:
        return AttuneError(
            "The body of this request has to be a JSON object, sent with Content-Type: application/json.",
            code="invalid_body",
        )
    if first["type"] == "missing":
        return AttuneError(f"Missing required parameter: '{param}'.", code="missing_required_parameter", param=param)
    if first["type"] == "extra_forbidden":
        return AttuneError(f"Unknown parameter: '{param}'.", code="unknown_parameter", param=param)
    wrong = ", or ".join(dict.fromkeys(_reason(error) for error in alike))
    code = "invalid_type" if first["type"].endswith("_type") else "invalid_value"
    return AttuneError(f"Invalid value for '{param}': {wrong}{_found(first)}.", code=code, param=param)


def _param(error: Mapping[str, Any], body: object) -> str | None:
    """The dotted path of the field at fault; pydantic's names for the arms of a union are no part of it."""
    kind, *steps = error["loc"]
    if kind != "body":
        return str(steps[0]) if steps else None
    path = ""
    here = body
    for index, step in enumerate(steps):
        is_last = index == len(steps) - 1
        if isinstance(step, int) and isinstance(here, list):
            path += f"[{step}]"
            here = cast(list[object], here)[step] if step < len(cast(list[object], here)) else None
        elif isinstance(here, dict) and (step in here or (is_last and error["type"] == "missing")):
            path += f".{step}" if path else str(step)
            here = cast(dict[object, object], here).get(step)
    return path or None


def _reason(error: Mapping[str, Any]) -> str:
    text = str(error["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    if error["type"] == "literal_error":
        return str(error.get("ctx", {}).get("expected", text))
    return text


def _found(error: Mapping[str, Any]) -> str:
    value = error.get("input")
    if isinstance(value, bool) or value is None:
        return f" (found {str(value).lower() if value is not None else 'null'})"
    if isinstance(value, int | float | str):
        shown = repr(value) if isinstance(value, str) else str(value)
        return f" (found {shown if len(shown) <= _SHOWN_INPUT else shown[:_SHOWN_INPUT] + '…'})"
    return ""
