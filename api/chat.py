"""POST /v1/chat/completions and /v1/completions: handed to a server that generates, and answered as it answers.

Whose model it is, is settled here; what is asked of it, the server judges. A client that leaves ends the work.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Annotated

import anyio
import httpx
from anyio import to_thread
from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import Field
from starlette.requests import ClientDisconnect

from api.errors import envelope
from api.generation import Generation
from api.parts import Caller, Parts, Within
from api.renamed import renamed
from core import aliases, catalog, published, servers
from core.errors import AttuneError, Unavailable
from core.models import Server
from core.projects import Principal

router = APIRouter(prefix="/v1", tags=["chat"])
NO_SERVER_RETRY_S = 5.0
_PASSED_ON = ("content-type", "retry-after", "x-should-retry")


class ChatRequest(Generation):
    messages: Annotated[list[object], Field(min_length=1)]


class TextRequest(Generation):
    """The older route, with a plain prompt."""

    prompt: str | list[object]


@router.post("/chat/completions")
async def create_chat_completion(body: ChatRequest, request: Request, caller: Caller, parts: Within) -> Response:
    return await _answer("chat/completions", body, request, caller, parts)


@router.post("/completions")
async def create_completion(body: TextRequest, request: Request, caller: Caller, parts: Within) -> Response:
    return await _answer("completions", body, request, caller, parts)


@router.post("/embeddings")
async def create_embeddings(caller: Caller) -> Response:
    """Always refused: the base models here make text."""
    raise AttuneError(
        "This place has no embedding models: its base models generate text. Send embeddings to a server made for "
        "them, for instance a second OpenAI client whose base_url is a text-embeddings-inference or vLLM server.",
        code="unsupported_endpoint",
        param="model",
    )


async def _answer(
    route: str, body: ChatRequest | TextRequest, request: Request, caller: Principal, parts: Parts
) -> Response:
    body.check_fields()
    model_id, candidates = await to_thread.run_sync(_servers_for, parts, caller.project_id, body.model)
    content = _written_anew(body.model_copy(update={"model": model_id}))
    alias = None if model_id == body.model else body.model
    for server in candidates:
        try:
            answer = await _unless_left(request, parts, _request(parts, server, route, content))
        except httpx.ConnectError:
            continue  # it ended a moment ago; its row ages out
        except httpx.TransportError as error:
            raise Unavailable("The server broke off; try again.", code="server_failed") from error
        if answer.status_code == 401 and server.device != servers.EXTERNAL:
            await answer.aclose()
            raise Unavailable("The server does not know this web side: give both the same ATTUNE_SERVE_TOKEN.")
        headers = {name: answer.headers[name] for name in _PASSED_ON if name in answer.headers}
        headers["x-accel-buffering"] = "no"  # nginx would hold a stream back
        return StreamingResponse(_relay(answer, alias), status_code=answer.status_code, headers=headers)
    raise Unavailable(
        f"No server is up that serves '{body.model}'. Start one with `python -m worker.serve`, or with `attune up`.",
        code="no_server",
        retry_after_s=NO_SERVER_RETRY_S,
    )


def _written_anew(body: ChatRequest | TextRequest) -> bytes:
    """What was checked is what is sent, whatever doubled keys the client's text held."""
    try:
        return json.dumps(body.model_dump(exclude_unset=True), allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        message = "The body holds NaN, Infinity or too many objects within each other."
        raise AttuneError(message, code="invalid_json") from error


def _servers_for(parts: Parts, project_id: str, name: str) -> tuple[str, list[Server]]:
    """(the id of the model that `name` means, the servers to ask for it, best first). Raises NotFound for a model
    that the project cannot see."""
    with parts.database.read() as session:
        model_id = aliases.resolve(session, project_id, name)
        model = published.find(session, project_id, model_id)
        base = model.base_model if model else catalog.find(session, model_id).id
        return model_id, list(servers.find(session, base))


def _request(parts: Parts, server: Server, route: str, content: bytes) -> httpx.Request:
    headers = {"content-type": "application/json"}
    if server.device != servers.EXTERNAL:  # our token is nobody else's to know
        headers["authorization"] = f"Bearer {parts.serve_token}"
    url = f"{server.address.rstrip('/')}/v1/{route}"
    return parts.http.build_request("POST", url, content=content, headers=headers)


async def _unless_left(request: Request, parts: Parts, upstream: httpx.Request) -> httpx.Response:
    """The beginning of the server's answer; the request to it is dropped when our client goes away."""
    answer: httpx.Response | None = None
    failure: httpx.TransportError | None = None
    async with anyio.create_task_group() as tasks:

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            tasks.cancel_scope.cancel()

        tasks.start_soon(watch)
        try:
            answer = await parts.http.send(upstream, stream=True)
        except httpx.TransportError as error:
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
