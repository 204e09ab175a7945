"""Idempotency-Key on every POST that makes something: the first answer is kept, and given again to its repetitions.

What failed has done nothing, since every failure rolls its transaction back; so its key may be tried again. Repetitions
that come while the first is still at work wait for its answer.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, cast

import anyio
from anyio import to_thread
from fastapi import Depends, FastAPI, Request
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import error_response
from api.gate.auth import FILE_PATH, GUARDED, PART_PATH, bearer
from api.parts import Caller, Parts, principal_of
from core import ids, replay
from core.access.projects import Principal
from core.errors import AttuneError
from core.replay import Answer, Asked, Keyed

WAIT_S = 20.0
POLL_S = (0.02, 0.5)  # first and longest wait between two looks
STILL_BUSY_RETRY_S = 5.0
MAX_KEY = 255
# Generated text is not kept; a form's bytes are not held in memory, so its route (and that of parts) asks `once`
_NOT_KEPT = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", FILE_PATH)


class Replay:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        given = headers.getlist("idempotency-key")
        if not given or scope["method"] != "POST" or scope["path"] in _NOT_KEPT or PART_PATH.fullmatch(scope["path"]):
            await self._app(scope, receive, send)
            return
        principal = scope["state"].get("principal")
        if not isinstance(principal, Principal) or not scope["path"].startswith(GUARDED):
            await self._app(scope, receive, send)
            return
        try:
            key = _well_formed(given)
            body = await _read(receive)
            keyed = _keyed(scope, principal, key, hashlib.sha256(body).hexdigest())
            parts = cast(Parts, cast(FastAPI, scope["app"]).state.parts)
            response = await _answer(parts, keyed, lambda: self._run(scope, body, receive))
        except AttuneError as error:
            response = error_response(error)
        await response(scope, receive, send)

    async def _run(self, scope: Scope, body: bytes, receive: Receive) -> Response:
        """The answer of the app, held back until it is kept."""
        response = Response()
        chunks: list[bytes] = []
        is_sent = False

        async def receive_again() -> Message:
            nonlocal is_sent
            if is_sent:
                return await receive()
            is_sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def hold(message: Message) -> None:
            if message["type"] == "http.response.start":
                response.status_code = message["status"]
                response.raw_headers = list(message["headers"])
            elif message["type"] == "http.response.body":
                chunks.append(message.get("body", b""))

        await self._app(scope, receive_again, hold)
        response.body = b"".join(chunks)
        return response


async def once(
    request: Request, parts: Parts, sha256: str, work: Callable[[], Response], undo: Callable[[], None]
) -> Response:
    """`work`, for a form: its route has stored its bytes on the way, and only then knows what was asked for.

    `sha256`: of that. Where an Idempotency-Key is given again, the first answer; then `work` is not done, and
    `undo` removes what was stored.
    """
    is_done = False

    async def work_once() -> Response:
        nonlocal is_done
        is_done = True
        return await to_thread.run_sync(work)

    given = request.headers.getlist("idempotency-key")
    try:
        if not given:
            return await work_once()
        keyed = _keyed(request.scope, principal_of(request), _well_formed(given), sha256)
        return await _answer(parts, keyed, work_once)
    finally:
        if not is_done:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(undo)


def _keyed(scope: Scope, principal: Principal, key: str, sha256: str) -> Keyed:
    where = f"{principal.project_id} POST {scope['path']}?".encode() + scope["query_string"] + b"\n"
    return Keyed(
        key_id=principal.key_id,
        idempotency_key=key,
        request_sha256=hashlib.sha256(where + sha256.encode()).hexdigest(),
        holder=ids.random_text(24),
        secret=bearer(Headers(scope=scope)),
    )


async def _answer(parts: Parts, keyed: Keyed, work: Callable[[], Awaitable[Response]]) -> Response:
    earlier = await _wait_or_take(parts, keyed)
    if earlier is not None:
        headers = {"idempotent-replayed": "true"}
        return Response(earlier.body, earlier.status, headers, media_type="application/json")
    is_kept = False
    try:
        response = await work()
        if 200 <= response.status_code < 300:
            await to_thread.run_sync(_keep, parts, keyed, Answer(response.status_code, bytes(response.body)))
            is_kept = True
        return response
    finally:
        if not is_kept:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(_release, parts, keyed)


def _well_formed(given: list[str]) -> str:
    if len(given) > 1 or not re.fullmatch(r"[\x20-\x7e]{1,255}", given[0]) or not given[0].strip():
        raise AttuneError(
            f"Idempotency-Key has to be one header of 1 to {MAX_KEY} visible ASCII characters, such as a UUID.",
            code="invalid_idempotency_key",
            param="Idempotency-Key",
        )
    return given[0]


async def _read(receive: Receive) -> bytes:
    """The whole body; `api.gate.body` bounds it. Raises its 408 and 413."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise AttuneError("The connection ended within the body.", code="incomplete_body")
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)


async def _wait_or_take(parts: Parts, keyed: Keyed) -> Answer | None:
    """The first request's answer; None: this is the first. Raises the 409 of a first one that takes too long."""
    deadline = time.monotonic() + WAIT_S
    pause_s, longest_s = POLL_S
    found = await to_thread.run_sync(_take, parts, keyed)
    while found == "busy":
        if time.monotonic() > deadline:
            raise AttuneError(
                "A request with this Idempotency-Key is still being worked on; ask again for its answer.",
                code="idempotency_key_in_use",
                param="Idempotency-Key",
                status=409,
                retry_after_s=STILL_BUSY_RETRY_S,
            )
        await anyio.sleep(pause_s)
        pause_s = min(2 * pause_s, longest_s)
        found = await to_thread.run_sync(_look, parts, keyed)
        if found is None:  # the first one failed, and left the work to us
            found = await to_thread.run_sync(_take, parts, keyed)
    return found if isinstance(found, Answer) else None


def _take(parts: Parts, keyed: Keyed) -> Answer | str:
    with parts.database.begin() as session:
        return replay.take(session, keyed)


def _look(parts: Parts, keyed: Keyed) -> Answer | str | None:
    with parts.database.read() as session:
        return replay.look(session, keyed)


def _keep(parts: Parts, keyed: Keyed, answer: Answer) -> None:
    with parts.database.begin() as session:
        replay.keep(session, keyed, answer)


def _release(parts: Parts, keyed: Keyed) -> None:
    with parts.database.begin() as session:
        replay.release(session, keyed)


def asked(request: Request, caller: Principal, sha256: str) -> Asked:
    """What the headers of a request tell about its earlier arrivals; `sha256`: of what it asks for."""
    count = request.headers.get("x-stainless-retry-count", "")
    return Asked(
        key_id=caller.key_id,
        request_sha256=hashlib.sha256(f"{request.url.path} {sha256}".encode()).hexdigest(),
        retry_count=min(int(count), 100) if re.fullmatch(r"[0-9]{1,9}", count) else 0,
        arrived=request.scope["state"]["arrived"],
        idempotency_key=request.headers.get("idempotency-key"),
    )


async def _as_asked(request: Request, caller: Caller) -> Asked:
    return asked(request, caller, hashlib.sha256(await request.body()).hexdigest())


AsAsked = Annotated[Asked, Depends(_as_asked)]
