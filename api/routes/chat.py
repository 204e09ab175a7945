"""POST /v1/chat/completions and /v1/completions: handed to a server that generates, and answered as it answers.

Whose model it is, is settled here; what is asked of it, the server judges. A client that leaves ends the work.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import anyio
import httpx
from anyio import to_thread
from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from starlette.requests import ClientDisconnect

from api.bodies.renamed import renamed
from api.openapi import COMPLETION
from api.parts import Caller, Parts, Within
from core.access.projects import Principal
from core.errors import AttuneError, envelope
from core.serving import completions
from core.serving.completions import Candidates, ChatRequest, CompletionRequest, TextRequest

router = APIRouter(prefix="/v1", tags=["chat"])
_PASSED_ON = ("content-type", "retry-after", "x-should-retry")


@router.post("/chat/completions", response_class=Response, responses=COMPLETION)
async def create_chat_completion(body: ChatRequest, request: Request, caller: Caller, parts: Within) -> Response:
    return await _answer("/v1/chat/completions", body, request, caller, parts)


@router.post("/completions", response_class=Response, responses=COMPLETION)
async def create_completion(body: TextRequest, request: Request, caller: Caller, parts: Within) -> Response:
    return await _answer("/v1/completions", body, request, caller, parts)


@router.post("/embeddings")
async def create_embeddings(caller: Caller) -> Response:
    """Always refused: the base models here make text."""
    raise completions.no_embeddings("model")


async def _answer(route: str, body: CompletionRequest, request: Request, caller: Principal, parts: Parts) -> Response:
    candidates = await to_thread.run_sync(_candidates, parts, caller.project_id, body.model)
    answer = await _unless_left(request, completions.ask(parts.http, candidates, route, body, parts.serve_token))
    alias = None if candidates.model == body.model else body.model
    headers = {name: answer.headers[name] for name in _PASSED_ON if name in answer.headers}
    headers["x-accel-buffering"] = "no"  # nginx would hold a stream back
    return StreamingResponse(_relay(answer, alias), status_code=answer.status_code, headers=headers)


def _candidates(parts: Parts, project_id: str, name: str) -> Candidates:
    with parts.database.read() as session:
        return completions.candidates(session, project_id, name)


async def _unless_left(request: Request, asking: Coroutine[Any, Any, httpx.Response]) -> httpx.Response:
    """The beginning of the server's answer; the request to it is dropped when our client goes away."""
    answer: httpx.Response | None = None
    failure: AttuneError | None = None
    async with anyio.create_task_group() as tasks:

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            tasks.cancel_scope.cancel()

        tasks.start_soon(watch)
        try:
            answer = await asking
        except AttuneError as error:
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if answer is None:
        raise ClientDisconnect
    return answer


async def _relay(answer: httpx.Response, alias: str | None) -> AsyncIterator[bytes]:
    """The server's bytes; an end before its end is told in the stream, where the client's parser looks for it.

    `alias`: what the client called the model, where that is not the name that the server knows.
    """
    try:
        async for chunk in answer.aiter_raw() if alias is None else renamed(answer, alias):
            yield chunk
    except httpx.TransportError:
        if not answer.headers.get("content-type", "").startswith("text/event-stream"):
            raise
        error = AttuneError("The server broke off.", code="server_failed", type="server_error", status=503)
        yield f"data: {json.dumps(envelope(error))}\n\n".encode()
    finally:
        with anyio.CancelScope(shield=True):
            await answer.aclose()
