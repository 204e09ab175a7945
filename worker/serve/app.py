"""The server's HTTP side: the two routes that complete, and GET /health, behind one bearer token.

`Server` owns everything that lives as long as the process: scheduler, models in memory, and its row in the
database. /health answers from the first moment, while torch is still being imported.
"""

from __future__ import annotations

import asyncio
import importlib
import math
import secrets
import socket
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from core.db import Database, open_database
from core.errors import AttuneError, Unavailable, envelope
from core.serving import servers
from core.serving.serve_token import serve_token
from core.settings import Settings
from core.store.storage import open_storage
from worker.device import DeviceHold
from worker.serve import text_wire, wire
from worker.serve.answering import ClientGone, deltas, while_connected
from worker.serve.begin import begin_chat, begin_text, call_reader
from worker.serve.chat_request import ChatRequest
from worker.serve.generation_request import parse_request
from worker.serve.residency import Borrowed, Residency
from worker.serve.resolve import Source
from worker.serve.scheduler import Scheduler
from worker.serve.text_request import TextRequest

if TYPE_CHECKING:
    from worker.engine.generate import Generation

Asked = TypeVar("Asked", ChatRequest, TextRequest)

log = structlog.get_logger()
CLOSE_S = 5.0  # to free the weights at the end
START_WAIT_S = 30.0  # a request waits this long for a server that is starting


class Server:
    """`give_up` is called when the server can never become ready. `lease_device` is the device as it is leased,
    where that is not the one the weights lie on; a turn on it lasts at least `least_turn_s`.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        give_up: Callable[[], None],
        lease_device: str | None = None,
        least_turn_s: float = 10.0,
    ) -> None:
        self._give_up = give_up
        self._least_turn_s = least_turn_s
        self._settings = settings
        self._lease_device = lease_device
        self._token = serve_token(settings)
        self._id = f"{socket.gethostname()}:{settings.serve_port}"
        self._scheduler = Scheduler()
        self._residency: asyncio.Future[Residency] | None = None
        self.app = Starlette(
            routes=[
                Route("/health", self._health),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/completions", self._text, methods=["POST"]),
            ],
            exception_handlers={
                AttuneError: _on_attune_error,
                HTTPException: _on_http_error,
                ClientGone: _on_client_gone,
                Exception: _on_bug,
            },
            lifespan=self._lifespan,
        )

    # Life

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncGenerator[None]:
        self._residency = asyncio.get_running_loop().create_future()
        life = asyncio.create_task(self._live())
        try:
            yield
        finally:
            life.cancel()
            await asyncio.gather(life, return_exceptions=True)
            await asyncio.to_thread(self._scheduler.close)

    async def _live(self) -> None:
        """Get ready, then say in the database that we are there, until cancelled."""
        assert self._residency is not None
        database = open_database(self._settings.resolved_database_url)
        try:
            residency = await self._get_ready(database)
        except Exception as error:
            log.exception("server_cannot_start")
            self._residency.set_exception(error)
            self._residency.exception()  # seen: without a request nobody would ask for it
            self._give_up()
            return
        self._residency.set_result(residency)
        watching = asyncio.create_task(residency.turn.watch())
        try:
            await self._beat(database, residency.device)
        finally:
            watching.cancel()
            for last in (asyncio.to_thread(self._leave, database), residency.turn.close()):
                try:
                    await asyncio.wait_for(last, CLOSE_S)
                except (Unavailable, TimeoutError) as error:
                    log.warning("server_left_something_behind", error=str(error))
            database.close()

    async def _get_ready(self, database: Database) -> Residency:
        storage = await asyncio.to_thread(open_storage, self._settings)
        device = await asyncio.to_thread(_find_device, self._settings.device)
        hold = DeviceHold(database, self._lease_device or device, f"server {self._id}")
        source = Source(self._settings, database, storage)
        log.info("server_ready", device=device, address=self._settings.resolved_serve_address)
        return Residency(self._settings, source, self._scheduler, device, hold, least_turn_s=self._least_turn_s)

    async def _beat(self, database: Database, device: str) -> None:
        address = self._settings.resolved_serve_address

        def say(*, known: bool) -> None:
            with database.begin() as session:
                if not known or not servers.beat(session, self._id, address):
                    servers.register(session, self._id, base_model=None, address=address, device=device)

        known = False
        while True:
            try:
                await asyncio.to_thread(say, known=known)
                known = True
            except Unavailable as error:
                log.warning("server_beat_failed", error=error.message)
            await asyncio.sleep(servers.BEAT_S)

    def _leave(self, database: Database) -> None:
        with database.begin() as session:
            servers.leave(session, self._id)

    # Requests

    async def _health(self, request: Request) -> Response:
        ready = self._residency is not None and self._residency.done() and not self._residency.exception()
        return JSONResponse({"status": "ok", "ready": ready, "live_requests": self._scheduler.live})

    async def _chat(self, request: Request) -> Response:
        return await self._answer(await self._asked(ChatRequest, request), begin_chat, _chat_completion)

    async def _text(self, request: Request) -> Response:
        return await self._answer(await self._asked(TextRequest, request), begin_text, _text_completion)

    async def _asked(self, kind: type[Asked], request: Request) -> Asked:
        self._authenticate(request)
        return parse_request(kind, await _body(request, self._settings.max_json_bytes))

    async def _answer(
        self,
        wanted: Asked,
        begin: Callable[[Borrowed, Asked], Generation],
        complete: Callable[[Borrowed, Asked, Generation], wire.Completion | text_wire.TextCompletion],
    ) -> Response:
        async with self._borrow(wanted.model) as (borrowed, stack):
            generation = await asyncio.to_thread(begin, borrowed, wanted)
            completion = complete(borrowed, wanted, generation)
            streams = bool(wanted.stream)
            return _Answer(self._scheduler, borrowed, generation, completion, stack.pop_all(), streams=streams)
        raise AssertionError("unreachable: the stack swallows nothing")

    @asynccontextmanager
    async def _borrow(self, model_id: str) -> AsyncGenerator[tuple[Borrowed, AsyncExitStack]]:
        """The model, given back with the block unless the stack is taken over."""
        assert self._residency is not None
        try:
            residency = await asyncio.wait_for(asyncio.shield(self._residency), START_WAIT_S)
        except TimeoutError:
            raise Unavailable("the server is starting", retry_after_s=START_WAIT_S) from None
        async with AsyncExitStack() as stack:
            yield await stack.enter_async_context(residency.borrow(model_id)), stack

    def _authenticate(self, request: Request) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not secrets.compare_digest(given.encode(), self._token.encode()):
            raise AttuneError(
                "Incorrect server token. The web side and its servers share ATTUNE_SERVE_TOKEN.",
                code="invalid_api_key",
                status=401,
            )


def _chat_completion(borrowed: Borrowed, wanted: ChatRequest, generation: Generation) -> wire.Completion:
    return wire.Completion(
        wanted.model,
        borrowed.servable.fingerprint,
        borrowed.generator.renderer(borrowed.adapter),
        n=generation.sampling.n,
        logprobs=bool(wanted.logprobs),
        usage=_wants_usage(wanted),
        reader=lambda: call_reader(borrowed, wanted),
    )


def _text_completion(borrowed: Borrowed, wanted: TextRequest, generation: Generation) -> text_wire.TextCompletion:
    return text_wire.TextCompletion(
        wanted.model,
        borrowed.servable.fingerprint,
        borrowed.generator.renderer(borrowed.adapter),
        n=generation.sampling.n,
        logprobs=wanted.logprobs is not None,
        usage=_wants_usage(wanted),
    )


def _wants_usage(wanted: ChatRequest | TextRequest) -> bool:
    return wanted.stream_options is not None and wanted.stream_options.include_usage


class _Answer(Response):
    """Generates while it is sent. The borrowed model is given back when the sending ends, however it ends."""

    def __init__(
        self,
        scheduler: Scheduler,
        borrowed: Borrowed,
        generation: Generation,
        completion: wire.Completion | text_wire.TextCompletion,
        borrowing: AsyncExitStack,
        *,
        streams: bool,
    ) -> None:
        self._scheduler = scheduler
        self._borrowed = borrowed
        self._generation = generation
        self._streams = streams
        self._borrowing = borrowing
        self._completion = completion

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._borrowing:
            if self._streams:
                with suppress(ClientGone):  # the status is out already, and nobody reads on
                    await while_connected(receive, self._stream(send))
                return
            whole = await while_connected(receive, self._collect())
        await JSONResponse(whole)(scope, receive, send)

    async def _collect(self) -> wire.Json:
        async with aclosing(deltas(self._scheduler, self._borrowed.generator, self._generation)) as steps:
            async for delta in steps:
                self._completion.take(delta)
        return self._completion.whole(*self._counts())

    async def _stream(self, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

        async def say(*events: Mapping[str, object] | str) -> None:
            body = b"".join(wire.event(event) for event in events)
            await send({"type": "http.response.body", "body": body, "more_body": True})

        await say(*self._completion.first_chunks())
        try:
            async with aclosing(deltas(self._scheduler, self._borrowed.generator, self._generation)) as steps:
                async for delta in steps:
                    await say(*self._completion.take(delta))
        except AttuneError as error:  # the status is out already: the error becomes the last event
            await say(envelope(error))
        except Exception:
            log.exception("generation_failed")
            await say(envelope(_bug()))
        else:
            usage = self._completion.usage_chunk(*self._counts())
            await say(*([usage] if usage else []), "[DONE]")
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _counts(self) -> tuple[int, int]:
        return len(self._generation.prompt_ids), self._generation.completion_tokens


def _find_device(device: str) -> str:
    """Import what takes seconds, and see where weights go."""
    from worker.engine.model import resolve_device

    importlib.import_module("worker.engine.generate")  # transformers, too, should stand before the first request
    return str(resolve_device(device))


async def _body(request: Request, limit: int) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise AttuneError(f"The body is larger than {limit} bytes.", code="request_too_large", status=413)
    return body


async def _on_attune_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, AttuneError)
    headers = {"Retry-After": str(math.ceil(error.retry_after_s))} if error.retry_after_s else None
    return JSONResponse(envelope(error), error.status, headers)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    shown = AttuneError(f"{request.method} {request.url.path}: {error.detail}", code="unknown_url")
    return JSONResponse(envelope(shown), error.status_code)


async def _on_client_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


async def _on_bug(request: Request, error: Exception) -> Response:
    return JSONResponse(envelope(_bug()), 500)


def _bug() -> AttuneError:
    return AttuneError(
        "The server failed on this request; its log says how.",
        code="internal_error",
        status=500,
        type="server_error",
    )
