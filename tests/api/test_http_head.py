"""What comes before a request is bounded, by raw connections to a real uvicorn that has no key to ask for."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, asynccontextmanager

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from api import http_head
from api.http_head import FILES_EACH, MAX_CONNECTIONS, MAX_HEAD_BYTES, OTHER_FILES
from tests.api.place import running

READ_BYTES = 256 * 1024  # what asyncio takes at once
MOST = 6  # connections


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    async def size(request: Request) -> PlainTextResponse:
        return PlainTextResponse(f"read {len(await request.body())}")

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[dict[str, int]]:
        yield {MAX_CONNECTIONS: MOST}

    with running(Starlette(routes=[Route("/", size, methods=["GET", "POST"])], lifespan=lifespan)) as url:
        yield int(url.rpartition(":")[2])


def said(connection: socket.socket) -> bytes:
    """Everything until the server closes."""
    heard = b""
    try:
        while piece := connection.recv(65536):
            heard += piece
    except ConnectionResetError:  # it closed with something of ours unread
        pass
    return heard


@pytest.mark.parametrize("piece", [b"a" * 4096, b"a: b\r\n" * 700], ids=["one endless header", "endless headers"])
def test_an_endless_head_is_cut_off(port: int, piece: bytes) -> None:
    sent = 0
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nx-long: ")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)
        try:
            while sent < 64 * 1024**2:
                connection.sendall(piece)
                sent += len(piece)
        except OSError:
            pass
        # an answer may be lost with the connection, but nothing was taken beyond the buffers of both sides
        assert said(connection)[:12] in (b"HTTP/1.1 431", b"")
    assert sent < 16 * 1024**2


def test_a_head_just_beyond_the_limit_is_told_so(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nx-long: " + b"a" * MAX_HEAD_BYTES)
        assert said(connection).startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")


def test_half_a_head_and_no_word_at_all_are_not_waited_for(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_head, "HEAD_S", 0.3)
    for sent in (b"", b"GET / HTTP/1.1\r\nHost:"):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            connection.sendall(sent)
            assert said(connection).startswith(b"HTTP/1.1 408 Request Timeout\r\n")


def test_large_bodies_and_further_requests_are_none_of_its_business(port: int) -> None:
    body = b"b" * (3 * READ_BYTES)
    post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(post + post + b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answers = said(connection)
    assert answers.count(b"HTTP/1.1 200 OK") == 3
    assert answers.count(b"read %d" % len(body)) == 2


def test_what_is_no_http_is_told_so(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"HELO there\r\n\r\n")
        answer = said(connection)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"\r\nx-content-type-options: nosniff\r\n" in answer
    assert b'"code": "invalid_http"' in answer


def test_one_connection_too_many_is_told_when_to_return(port: int) -> None:
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    with ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20)) for _ in range(MOST)]
        for connection in held:  # so that all of them have been taken
            connection.sendall(request)
            assert connection.recv(100).startswith(b"HTTP/1.1 200 OK")
        with socket.create_connection(("127.0.0.1", port), timeout=20) as refused:
            answer = said(refused)
        assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"\r\nretry-after: 2\r\n" in answer
        held[0].close()
        while True:  # until the server has seen it leave
            with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
                connection.sendall(request)
                if connection.recv(100).startswith(b"HTTP/1.1 200 OK"):
                    break


@pytest.mark.parametrize(
    ("soft", "hard", "found"), [(300, 1000, (1000 - OTHER_FILES) // FILES_EACH), (300, 5000, 2000), (4500, 5000, 2000)]
)
def test_no_more_connections_than_files_may_be_open(soft: int, hard: int, found: int) -> None:
    asked = f"""
import resource
from api.http_head import room
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
print(room(2000), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    answered = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    raised = max(soft, min(hard, FILES_EACH * 2000 + OTHER_FILES))
    assert answered.stdout.splitlines()[-1] == f"{found} {raised} {hard}"
