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
from starlette.types import Receive, Scope, Send

from core.errors import AttuneError, QuotaReached, envelope
from core.invalid import invalid

log = structlog.get_logger()
PASSING = (408, 429)  # client errors that the same call may get over
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
MAX_RETRY_AFTER_S = 120  # a client that is told to wait longer does not try again at all


class NotAllowed(AttuneError):
    """`allowed`: the methods to use instead."""

    def __init__(self, method: str, path: str, allowed: str) -> None:
        message = f"Not allowed: {method} {path[:200]}. Use {allowed}."
        super().__init__(message, code="method_not_allowed", status=405)
        self.allowed = allowed


class _ErrorResponse(JSONResponse):
    """Leaves its code with the request, where the edge finds and counts it."""

    def __init__(self, error: AttuneError, headers: Mapping[str, str]) -> None:
        super().__init__(envelope(error), status_code=error.status, headers=headers)
        self._code = error.code

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["error_code"] = self._code
        await super().__call__(scope, receive, send)


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
    return _ErrorResponse(error, sent)


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


async def _on_attune_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, AttuneError)
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
