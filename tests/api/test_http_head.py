"""What comes before a request is bounded, by raw connections to a real uvicorn that has no key to ask for."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from api import http_head
from api.http_head import MAX_HEAD_BYTES
from tests.api.place import running

READ_BYTES = 256 * 1024  # what asyncio takes at once


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    async def size(request: Request) -> PlainTextResponse:
        return PlainTextResponse(f"read {len(await request.body())}")

    with running(Starlette(routes=[Route("/", size, methods=["GET", "POST"])])) as url:
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
