"""The outermost layer: every answer has its request id, timing and security headers, and no bug escapes unnamed."""

from __future__ import annotations

import time
from typing import cast

import structlog
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

from api.errors import error_response, internal_error
from api.metrics import Requests
from core import crash_points, ids
from core.errors import Unavailable
from core.store.storage import StorageCorrupt, StorageMissing

log = structlog.get_logger()
OPENAI_VERSION = "2020-10-01"  # the dialect that clients may ask for
ALWAYS = {
    "openai-version": OPENAI_VERSION,
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
}
UNLESS_SET = {
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}

# The store's failures in the middle of a download: no bugs of ours
_BREAKS_OFF = (StorageCorrupt, StorageMissing, Unavailable)


class Edge:
    def __init__(self, app: ASGIApp, requests: Requests) -> None:
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = "req_" + ids.random_text(24)
        with bound_contextvars(request_id=request_id):  # of every line that is logged until it is answered
            await self._answer(scope, receive, send, request_id)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        started = time.perf_counter()
        scope.setdefault("state", {}).update(request_id=request_id, arrived=started)
        status: int | None = None

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = cast(int, message["status"])
                if scope["method"] == "POST" and status < 300:
                    crash_points.here("answer.begun")
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                headers["openai-processing-ms"] = str(round((time.perf_counter() - started) * 1000))
                headers.update(ALWAYS)
                for name, value in UNLESS_SET.items():
                    headers.setdefault(name, value)
                if "frame-ancestors 'none'" in headers["content-security-policy"]:
                    headers["x-frame-options"] = "DENY"  # the same for old browsers, which know no list
            await send(message)

        try:
            await self._app(scope, receive, send_marked)
        except ClientDisconnect:
            status = status or 499  # nobody reads an answer
        except Exception as error:
            # What the app has an answer for comes as the cause of Starlette's complaint that it is too late for one
            why = error if isinstance(error, _BREAKS_OFF) else error.__cause__
            if status is not None and isinstance(why, _BREAKS_OFF):
                log.warning("answer_broken_off", path=scope["path"], why=str(why))
                return  # the server closes a connection whose answer is not whole
            log.exception("request_failed", method=scope["method"], path=scope["path"])
            if status is not None:
                raise  # half an answer is out: the connection has to break
            await error_response(internal_error(request_id))(scope, receive, send_marked)
        finally:
            self._note(scope, status, time.perf_counter() - started)

    def _note(self, scope: Scope, status: int | None, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        self._requests.count(scope["method"], route, status or 0, seconds)
        if code := scope["state"].get("error_code"):
            self._requests.refuse(code, status or 0)
        principal = scope["state"].get("principal")
        # Whoever watches a job asks several times a second; what changes something, or fails, is worth a line
        watching = scope["method"] == "GET" and status is not None and status < 400
        level = log.debug if watching else log.info
        level(
            "request",
            method=scope["method"],
            path=scope["path"],
            status=status,
            ms=round(seconds * 1000, 1),
            key=principal.key_id if principal else None,
        )
