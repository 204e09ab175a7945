"""Asking a model: who answers for it, and the way of a request there. The web side hands requests on by it, and a
worker the lines of a batch, so that both get the same answers.

Whose model it is, is settled here; what is asked of it, the server judges. Weights are the servers' business: the
one who asks puts nothing on a device.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import httpx
from pydantic import Field
from sqlalchemy.orm import Session

from core.bases import catalog
from core.errors import AttuneError, Unavailable
from core.models import Server
from core.serving import aliases, published, servers
from core.serving.generation import Generation

GENERATION_S = 600.0  # as long as OpenAI's clients wait
CONNECT_S = 3.0
NO_SERVER_RETRY_S = 5.0


class ChatRequest(Generation):
    messages: Annotated[list[object], Field(min_length=1)]


class TextRequest(Generation):
    """The older route, with a plain prompt."""

    prompt: str | list[object]


CompletionRequest = ChatRequest | TextRequest
REQUESTS: dict[str, type[ChatRequest] | type[TextRequest]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": TextRequest,
}


def no_embeddings(param: str) -> AttuneError:
    return AttuneError(
        "This place has no embedding models: its base models generate text. Send embeddings to a server made for "
        "them, for instance a second OpenAI client whose base_url is a text-embeddings-inference or vLLM server.",
        code="unsupported_endpoint",
        param=param,
    )


def open_client() -> httpx.AsyncClient:
    """For as many requests as there are; to be closed by who opened it."""
    # An idle connection is given up before the server (uvicorn: after 5 s) may close it under the next request
    limits = httpx.Limits(max_connections=256, max_keepalive_connections=32, keepalive_expiry=2.0)
    # trust_env: servers are our own neighbours, and no proxy stands between
    return httpx.AsyncClient(timeout=httpx.Timeout(GENERATION_S, connect=CONNECT_S), limits=limits, trust_env=False)


@dataclass(frozen=True)
class Candidates:
    """Who may answer, best first; `model`: the id by which servers know what the caller may have named by an alias."""

    model: str
    servers: Sequence[Server]


def candidates(session: Session, project_id: str, name: str) -> Candidates:
    """Raises NotFound for a model that the project cannot see."""
    model_id = aliases.resolve(session, project_id, name)
    model = published.find(session, project_id, model_id)
    base = model.base_model if model else catalog.find(session, model_id).id
    return Candidates(model_id, servers.find(session, base))


def written_anew(body: CompletionRequest) -> bytes:
    """What was checked is what is sent, whatever doubled keys the client's text held."""
    body.check_fields()
    try:
        return json.dumps(body.model_dump(exclude_unset=True), allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        message = "The body holds NaN, Infinity or too many objects within each other."
        raise AttuneError(message, code="invalid_json") from error


async def ask(
    http: httpx.AsyncClient, asked: Candidates, route: str, body: CompletionRequest, token: str
) -> httpx.Response:
    """The beginning of a server's answer, whatever its status; its bytes are still to be read.

    `route`: such as /v1/completions. `token`: what our own servers want to see. Raises Unavailable when none answers.
    """
    content = written_anew(body.model_copy(update={"model": asked.model}))
    able = asked.servers if body.adapter_scale is None else list(filter(_is_ours, asked.servers))
    if asked.servers and not able:
        raise AttuneError(
            f"'{body.model}' is served by a server of another make, which holds adapters at the scale that they were "
            "trained with. Leave attune.adapter_scale out.",
            code="adapter_scale_unsupported",
            param="attune.adapter_scale",
        )
    for server in able:
        headers = {"content-type": "application/json"}
        is_ours = _is_ours(server)
        if is_ours:  # our token is nobody else's to know
            headers["authorization"] = f"Bearer {token}"
        request = http.build_request("POST", server.address.rstrip("/") + route, content=content, headers=headers)
        try:
            answer = await _send(http, request)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            continue  # it ended a moment ago, and its row ages out; or an operator's is away, or its name unknown
        except httpx.TransportError as error:
            raise broken_off() from error
        if answer.status_code == 401 and is_ours:
            await answer.aclose()
            raise Unavailable("The server does not know who asks: give all the same ATTUNE_SERVE_TOKEN.")
        return answer
    raise Unavailable(
        f"No server is up that serves '{body.model}'. Start one with `python -m worker.serve`, or with `attune up`.",
        code="no_server",
        retry_after_s=NO_SERVER_RETRY_S,
    )


def _is_ours(server: Server) -> bool:
    return server.device != servers.EXTERNAL


async def _send(http: httpx.AsyncClient, request: httpx.Request) -> httpx.Response:
    """Twice at most: a server may close an idle connection under a request, and asking again changes nothing."""
    try:
        return await http.send(request, stream=True)
    except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
        return await http.send(request, stream=True)


def broken_off() -> Unavailable:
    return Unavailable("The server broke off; try again.", code="server_failed")
