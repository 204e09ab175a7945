"""Requests a minute of a project that has a limit: OpenAI's headers on every answer, and 429 beyond it.

Judged from the headers, before the body. Operators are counted but never held up: they can always raise a limit.
"""

from __future__ import annotations

from typing import cast

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import error_response
from api.parts import Parts
from core.access.projects import Principal
from core.errors import AttuneError


class RateLimit:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        principal = scope["state"].get("principal") if scope["type"] == "http" else None
        if not isinstance(principal, Principal) or principal.max_requests_per_minute is None:
            await self._app(scope, receive, send)
            return
        limit = principal.max_requests_per_minute
        parts = cast(Parts, cast(FastAPI, scope["app"]).state.parts)
        window = await parts.rates.count(principal.project_id)
        shown = {
            "x-ratelimit-limit-requests": str(limit),
            "x-ratelimit-remaining-requests": str(max(0, limit - window.used)),
            "x-ratelimit-reset-requests": f"{window.reset_s}s",
        }
        if window.used > limit and not principal.is_operator:
            error = AttuneError(
                f"Rate limit reached: {limit} requests a minute. Try again in {window.reset_s} s.",
                code="rate_limit_exceeded",
                status=429,
                type="requests",
                retry_after_s=window.reset_s,
            )
            await error_response(error, shown)(scope, receive, send)
            return

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(shown)
            await send(message)

        await self._app(scope, receive, send_marked)
