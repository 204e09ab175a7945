"""Who comes when too many are being answered is turned away at once, told when to return, and served then."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from api import http_head
from api.gate import admission
from api.gate.admission import LINE, PLACE, Line, Place
from api.http_head import UNREAD_BYTES
from tests.api.place import Tenant, running

KEEP_ALIVE_S = 5.0  # uvicorn's default
CLOSING = "GET /v1/size HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def test_a_refusal_says_when_to_return_and_leaves_no_trace(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = tenant.job()
    monkeypatch.setattr(admission, "PLACES", 0)
    large = {"x": "y" * UNREAD_BYTES}
    with tenant.http as http:
        for method, path, body in (
            ("GET", f"/v1/fine_tuning/jobs/{job_id}", None),
            ("POST", f"/v1/fine_tuning/jobs/{job_id}/cancel", {}),
            ("POST", f"/v1/fine_tuning/jobs/{job_id}/cancel", large),  # which the app has to refuse
            ("GET", f"/v1/fine_tuning/jobs/{job_id}", None),
        ):
            refused = http.request(method, path, json=body)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
            assert 1 <= int(refused.headers["retry-after"]) <= 4
            assert refused.headers["x-request-id"].startswith("req_")
            assert refused.headers["x-content-type-options"] == "nosniff"
            assert "x-should-retry" not in refused.headers
        assert http.get("/healthz").status_code == 200  # a busy process is not a dead one
        counted = tenant.place.operator.get("/metrics").text
        monkeypatch.undo()
        job = http.get(f"/v1/fine_tuning/jobs/{job_id}")
    assert (job.status_code, job.json()["status"]) == (200, "validating_files")
    match = re.search(r'attune_http_errors_total\{code="overloaded",status="503"\} (\d+)', counted)
    assert match is not None
    assert int(match[1]) >= 4


@pytest.fixture
def line() -> Line:
    return Line(lambda *_: None)


@pytest.fixture
def port(line: Line) -> Iterator[int]:
    """An app with a line, that answers when `go` was asked for."""
    went = anyio.Event()

    async def size(request: Request) -> PlainTextResponse:
        return PlainTextResponse(f"read {len(await request.body())}")

    async def wait(_: Request) -> PlainTextResponse:
        await went.wait()
        return PlainTextResponse("went")

    async def follow(request: Request) -> StreamingResponse:
        place = request.scope["state"][PLACE]
        assert isinstance(place, Place)
        place.leave()

        async def pieces() -> AsyncGenerator[str]:
            yield "first "
            await went.wait()
            yield "last"

        return StreamingResponse(pieces())

    async def go(_: Request) -> PlainTextResponse:
        went.set()
        return PlainTextResponse("gone")

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[dict[str, Line]]:
        yield {LINE: line}

    routes = [
        Route("/v1/size", size, methods=["GET", "POST"]),
        Route("/v1/wait", wait),
        Route("/v1/follow", follow),
        Route("/v1/jobs/1/stream", size),
        Route("/v1/wait/stream", wait),
        Route("/go", go),
    ]
    with running(Starlette(routes=routes, lifespan=lifespan)) as url:
        yield int(url.rpartition(":")[2])


def until(condition: Callable[[], bool]) -> None:
    """A request is counted, and counted out, a moment before or after its words."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def said(connection: socket.socket) -> bytes:
    heard = b""
    while piece := connection.recv(65536):
        heard += piece
    return heard


def ask(port: int, request: str) -> bytes:
    with connect(port) as connection:
        connection.sendall(request.encode())
        return said(connection)


def test_who_is_being_answered_is_counted_and_who_follows_is_not(
    port: int, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "PLACES", 2)
    close = " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with connect(port) as follows, connect(port) as waits, connect(port) as waits_too:
        follows.sendall(f"GET /v1/follow{close}".encode())
        heard = b""
        while b"first" not in heard:
            heard += follows.recv(1000)
        for number, connection in enumerate((waits, waits_too)):
            until(lambda number=number: line.inside == number)
            assert b"read 0" in ask(port, CLOSING)
            connection.sendall(f"GET /v1/wait{close}".encode())
            until(line.is_full if number else lambda: line.inside == 1)
        assert ask(port, CLOSING).startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"read 0" in ask(port, f"GET /v1/jobs/1/stream?after=3{close}"), "a stream waits in any line"
        assert b"gone" in ask(port, f"GET /go{close}"), "this is for no line"
        assert b"went" in said(waits)
        assert b"went" in said(waits_too)
        assert said(follows).endswith(b"last\r\n0\r\n\r\n")
    until(lambda: line.inside == 0)
    assert b"read 0" in ask(port, CLOSING)


def test_a_connection_outlives_its_refusals(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "PLACES", 0)
    post = "POST /v1/size HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
    answers = ask(port, post + post + CLOSING)
    assert answers.count(b"HTTP/1.1 503 Service Unavailable\r\n") == 3
    body = answers.rpartition(b"\r\n\r\n")[2]
    assert json.loads(body)["error"]["code"] == "overloaded"
    with connect(port) as connection:
        connection.sendall(post.encode())
        connection.recv(65536)
        monkeypatch.undo()
        connection.sendall((post + CLOSING).encode())
        answers = said(connection)
    assert answers.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert b"read 3" in answers


def test_a_request_behind_a_refused_one_has_its_time(port: int, line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of an idle connection, which the refusal has set, is not the end of the answer that follows."""
    monkeypatch.setattr(admission, "PLACES", 1)
    wait = "GET /v1/wait HTTP/1.1\r\nHost: x\r\n\r\n"
    with connect(port) as busy, connect(port) as connection:
        busy.sendall(wait.encode())
        until(line.is_full)
        connection.sendall(f"{CLOSING.replace('close', 'keep-alive')}GET /v1/wait/stream{CLOSING[12:]}".encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 503")
        until(lambda: line.inside == 2)
        time.sleep(KEEP_ALIVE_S + 0.5)
        ask(port, CLOSING.replace("/v1/size", "/go"))
        assert b"went" in said(connection)


def test_the_body_of_a_refused_request_is_not_waited_for(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "PLACES", 0)
    monkeypatch.setattr(http_head, "HEAD_S", 0.3)
    answer = ask(port, "POST /v1/size HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nab")
    assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")


def test_the_log_tells_of_many_refusals_in_one_line(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[dict[str, object]] = []
    monkeypatch.setattr(admission.log, "warning", lambda _, **values: lines.append(values), raising=False)
    for _ in range(100):
        line.refuse()
    monkeypatch.setattr(admission, "SAID_EVERY_S", 0.0)
    line.refuse()
    assert [line["number"] for line in lines] == [1, 100]
