"""`ETag` on what clients poll, and 304 when `If-None-Match` names it: an unchanged answer costs no bytes.

Every JSON answer to a GET below /v1 has one: the hash of its body.
"""

from __future__ import annotations

import hashlib

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.gate.auth import GUARDED

_OF_A_BODY = ("content-length", "content-type")


class Unchanged:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET" or not scope["path"].startswith(GUARDED):
            await self._app(scope, receive, send)
            return
        known = Headers(scope=scope).get("if-none-match", "")
        start: Message | None = None

        async def send_unless_known(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and _is_marked(message):
                start = message  # held until the body is there
                return
            if start is not None and message["type"] == "http.response.body":
                held, start = start, None
                if not message.get("more_body", False):
                    message = _mark(held, message, known)
                await send(held)
            await send(message)

        await self._app(scope, receive, send_unless_known)


def _is_marked(start: Message) -> bool:
    headers = Headers(raw=start["headers"])
    return (
        start["status"] == 200
        and headers.get("content-type", "").startswith("application/json")
        and "etag" not in headers
    )


def _mark(start: Message, body: Message, known: str) -> Message:
    """Give `start` its tag; returns the body to send."""
    headers = MutableHeaders(scope=start)
    etag = f'"{hashlib.sha256(body.get("body", b"")).hexdigest()[:32]}"'
    headers["etag"] = etag
    headers.setdefault("cache-control", "private, no-cache")  # to be kept, and asked about each time
    tags = [tag.strip().removeprefix("W/") for tag in known.split(",")]
    if etag not in tags and known.strip() != "*":
        return body
    start["status"] = 304
    for name in _OF_A_BODY:
        del headers[name]
    return {"type": "http.response.body", "body": b"", "more_body": False}
