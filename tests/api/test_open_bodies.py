"""No more uploads and streams at once than a project, or all of them, may have; and none is counted for ever."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

import httpx
import pytest

from api.gate.access import DEMANDS
from api.gate.open_bodies import STREAMS, STREAMS_SHARE, UPLOADS
from core.settings import Settings
from tests.api.place import Place, Tenant, examples, place

OF_PROJECT, CONNECTIONS, OPEN_UPLOADS = 25, 60, 2
WAIT_S = 60.0
IN_ALL = int(STREAMS_SHARE * CONNECTIONS)
NO_WAIT = struct.pack("ii", 1, 0)  # SO_LINGER: the connection is reset when it is closed


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("narrow"),
        log_level="warning",
        max_connections=CONNECTIONS,
        max_streams=OF_PROJECT,
        max_uploads=OPEN_UPLOADS,
    )
    with place(settings) as running:
        yield running


def followed(tenant: Tenant, job_id: str) -> Callable[[ExitStack], httpx.Response]:
    """Opens one more stream of the job, until the stack ends."""

    def follow(stack: ExitStack) -> httpx.Response:
        http = stack.enter_context(tenant.http)
        path = f"/v1/attune/fine_tuning/jobs/{job_id}/stream"
        answer = stack.enter_context(http.stream("GET", path))
        if answer.status_code != 200:
            answer.read()
        return answer

    return follow


def raw(tenant: Tenant, request: str) -> socket.socket:
    parts = urlsplit(tenant.place.url)
    connection = socket.create_connection((parts.hostname, parts.port), timeout=20)
    connection.sendall(request.format(key=tenant.key).encode())
    return connection


def until_there_is_room(ask: Callable[[], int]) -> None:
    """The server sees a client leave a moment later."""
    deadline = time.monotonic() + WAIT_S
    while (status := ask()) != 200:
        assert status in (429, 503)
        assert time.monotonic() < deadline, "what has ended is still counted"
        time.sleep(0.05)


def test_the_table_names_routes_that_there_are() -> None:
    assert not (UPLOADS | STREAMS) - DEMANDS.keys()
    assert not UPLOADS & STREAMS


def test_streams_of_a_project_and_of_all(narrow: Place) -> None:
    first, second = narrow.tenant("first"), narrow.tenant("second")
    follow, follow_second = followed(first, first.job()), followed(second, second.job())
    with ExitStack() as stack:
        for _ in range(OF_PROJECT):
            assert follow(stack).status_code == 200
        with ExitStack() as brief:
            refused = follow(brief)
        error = refused.json()["error"]
        assert (refused.status_code, error["code"], error["type"]) == (429, "too_many_streams", "requests")
        assert refused.headers["retry-after"] == "5"
        assert "x-should-retry" not in refused.headers
        assert f"{OF_PROJECT} streams open at once" in error["message"]
        assert "ATTUNE_MAX_STREAMS" in error["message"]
        with first.http as http:  # what is answered in a moment is answered
            assert http.get("/v1/models").status_code == 200
        for _ in range(IN_ALL - OF_PROJECT):
            assert follow_second(stack).status_code == 200
        with ExitStack() as brief:
            refused = follow_second(brief)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
        with narrow.client() as http:
            assert 'attune_http_errors_total{code="too_many_streams",status="429"} 1.0' in http.get("/metrics").text

    def ask() -> int:
        with ExitStack() as brief:
            return follow(brief).status_code

    until_there_is_room(ask)


def test_no_stream_is_counted_when_it_is_over(narrow: Place) -> None:
    """However it ended: clients that vanish, jobs that end, what is refused, and chats that no server answers."""
    tenant = narrow.tenant("leaving")
    job_id = tenant.job()
    head = (
        f"GET /v1/attune/fine_tuning/jobs/{job_id}/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {{key}}\r\n\r\n"
    )
    for number in range(3 * OF_PROJECT):
        connection = raw(tenant, head)
        if number % 2:
            assert connection.recv(100)[9:12] in (b"200", b"429", b"503")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_WAIT)
        connection.close()
    statuses: set[int] = set()
    with tenant.http as http:
        for _ in range(3 * OF_PROJECT):
            chat = {"model": "tiny/base", "messages": [{"role": "user", "content": "a"}]}
            statuses.add(http.post("/v1/chat/completions", json=chat).status_code)
            statuses.add(http.get("/v1/attune/fine_tuning/jobs/ftjob-none/stream").status_code)
    assert statuses <= {503, 404, 429}
    follow = followed(tenant, job_id)
    with ExitStack() as stack:
        for _ in range(OF_PROJECT):
            until_there_is_room(lambda: follow(stack).status_code)
        with tenant.http as http:
            http.post(f"/v1/fine_tuning/jobs/{job_id}/cancel")
    with ExitStack() as stack:
        for _ in range(OF_PROJECT):
            until_there_is_room(lambda: follow(stack).status_code)


def test_uploads_of_a_project(narrow: Place) -> None:
    tenant, other = narrow.tenant("uploading"), narrow.tenant("beside")
    begun = (
        "POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: 5000\r\n"
        'Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\nContent-Disposition: form-data; name="purpose"'
    )

    def upload(tenant: Tenant) -> httpx.Response:
        with tenant.http as http:
            file = ("a.jsonl", examples(1))
            return http.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": file})

    held = [raw(tenant, begun) for _ in range(OPEN_UPLOADS)]
    deadline = time.monotonic() + WAIT_S
    while (answer := upload(tenant)).status_code == 200:  # until the server has seen them begin
        assert time.monotonic() < deadline
        held.append(raw(tenant, begun))  # this upload may have come before one of them, which was refused then
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "too_many_uploads")
    assert upload(other).status_code == 200
    for connection in held:
        connection.close()
    until_there_is_room(lambda: upload(tenant).status_code)
