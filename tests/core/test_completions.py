"""Whoever asks a model gets an answer as long as one of its servers can give one."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable

import httpx

from core.models import Server
from core.serving import completions, servers
from core.serving.completions import Candidates, ChatRequest
from tests.services import free_port

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
ROUTE = "/v1/chat/completions"
BODY = ChatRequest.model_validate({"model": "tiny/base", "messages": [{"role": "user", "content": "hello"}]})
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4\r\n\r\ntrue"


def server(name: str, port: int) -> Server:
    return Server(id=name, base_model=None, address=f"http://127.0.0.1:{port}", device=servers.EXTERNAL)


async def ask(http: httpx.AsyncClient, *candidates: Server) -> object:
    answer = await completions.ask(http, Candidates("tiny/base", candidates), ROUTE, BODY, token="none")
    return json.loads(await answer.aread())


async def listen(handler: Handler) -> tuple[asyncio.Server, int]:
    listening = await asyncio.start_server(handler, "127.0.0.1", 0)
    return listening, listening.sockets[0].getsockname()[1]


async def take(reader: asyncio.StreamReader) -> None:
    """One request, read to its end."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(int(length.split(b":")[1]))


def test_servers_that_are_away_or_silent_are_passed_over() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take(reader)
        writer.write(ANSWER)
        await writer.drain()
        writer.close()

    async def scenario() -> None:
        listening, port = await listen(handler)
        with socket.socket() as silent, socket.socket() as waiting:
            silent.bind(("127.0.0.1", 0))
            silent.listen(0)
            waiting.connect(silent.getsockname())  # its queue is full: whoever else connects hears nothing
            timeout = httpx.Timeout(20, connect=0.2)
            async with listening, httpx.AsyncClient(timeout=timeout, trust_env=False) as http:
                away, mute = server("away", free_port()), server("mute", silent.getsockname()[1])
                assert await ask(http, away, mute, server("up", port)) is True

    asyncio.run(scenario())


def test_a_request_that_an_idle_connection_was_closed_under_is_sent_again() -> None:
    taken: list[int] = []  # requests of each connection

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.append(0)
        number = len(taken)
        while not (number == 1 and taken[0] == 1):
            await take(reader)
            taken[number - 1] += 1
            writer.write(ANSWER)
            await writer.drain()
        await reader.read(1)  # the first connection closes when its second request begins
        writer.transport.abort()

    async def scenario() -> None:
        listening, port = await listen(handler)
        async with httpx.AsyncClient(timeout=20, trust_env=False) as http:
            assert await ask(http, server("up", port)) is True
            assert await ask(http, server("up", port)) is True
        listening.close()

    asyncio.run(scenario())
    assert taken == [1, 1]
