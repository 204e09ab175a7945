"""Bodies that are too long, too slow, cut short or no form at all: refused, and nothing is left."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlsplit

import httpx
import pytest

from api.gate.body import Pace
from core.settings import Settings
from tests.api.place import BASE, Place, Tenant, examples, place

LIMIT = 256 * 1024
FORM = {"Content-Type": "multipart/form-data; boundary=x"}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A web side with low limits and little patience."""
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("small"), log_level="warning", max_file_bytes=LIMIT, max_json_bytes=20_000
    )
    with place(settings, pace=Pace(idle_s=1.0, window_s=0.5, bytes_per_s=2000)) as running:
        yield running


@pytest.fixture
def guest(small: Place) -> Tenant:
    return small.tenant()


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    head = f'--x\r\nContent-Disposition: form-data; name="{name}"'
    if filename is not None:
        head += f'; filename="{filename}"'
    return head.encode() + b"\r\n\r\n" + content + b"\r\n"


PURPOSE = part("purpose", b"fine-tune")
END = b"--x--\r\n"


def upload(tenant: Tenant, content: bytes | Iterator[bytes], headers: dict[str, str] | None = None) -> httpx.Response:
    with tenant.http as http:
        return http.post("/v1/files", content=content, headers=headers or FORM)


def begin_upload(tenant: Tenant, headers: str, body: bytes) -> socket.socket:
    parts = urlsplit(tenant.place.url)
    connection = socket.create_connection((parts.hostname, parts.port), timeout=10)
    connection.sendall(
        f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {tenant.key}\r\n"
        f"Content-Type: multipart/form-data; boundary=x\r\n{headers}\r\n\r\n".encode()
        + body
    )
    return connection


def read_answer(connection: socket.socket) -> tuple[int, str]:
    """(status, error code) of an answer after which the connection ends."""
    answer = b""
    with suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            answer += chunk
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]["code"]


_BAD_FORMS: list[tuple[bytes, str, str | None]] = [
    (PURPOSE + END, "missing_required_parameter", "file"),
    (part("file", examples(1), "a.jsonl") + END, "missing_required_parameter", "purpose"),
    (PURPOSE + part("file", examples(1)) + END, "bad_form", "file"),
    (PURPOSE + part("file", b"", "a.jsonl") + END, "invalid_file_format", "file"),
    (PURPOSE + 2 * part("file", examples(1), "a.jsonl") + END, "too_many_files", "file"),
    (PURPOSE + part("other", b"x", "a.jsonl") + END, "too_many_files", "file"),
    (part("purpose", b"nonsense") + part("file", examples(1), "a.jsonl") + END, "invalid_purpose", "purpose"),
    (PURPOSE + PURPOSE + part("file", examples(1), "a.jsonl") + END, "bad_form", None),
    (b"".join(part(f"f{n}", b"") for n in range(1001)) + END, "bad_form", None),
    (PURPOSE + part("note", b"\xff\xfe") + part("file", examples(1), "a.jsonl") + END, "bad_form", None),
    (PURPOSE + part("file", examples(3), "a.jsonl"), "bad_form", None),
    ((PURPOSE + part("file", examples(3), "a.jsonl") + END)[:-40], "bad_form", None),
    (b"--x\r\n" + b"h: " + b"v" * 100_000 + b"\r\n\r\n" + END, "bad_form", None),
    (b"no form at all", "bad_form", None),
    (b"", "bad_form", None),
]


def test_bad_forms_name_what_is_wrong(guest: Tenant) -> None:
    for content, code, param in _BAD_FORMS:
        answer = upload(guest, content)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, code, param), (content[-200:], error)
    for kind in ("multipart/form-data", "application/json", f"multipart/form-data; boundary={'b' * 10_000}"):
        assert upload(guest, PURPOSE + END, {"Content-Type": kind}).json()["error"]["code"] == "bad_form"
    squeezed = upload(guest, b"\x1f\x8b", {**FORM, "Content-Encoding": "gzip"})
    assert (squeezed.status_code, squeezed.json()["error"]["code"]) == (415, "unsupported_encoding")
    assert guest.left() == (0, 0)


def test_a_body_that_is_too_large_is_refused(guest: Tenant) -> None:
    announced = begin_upload(guest, "Content-Length: 1073741824", b"")
    assert read_answer(announced) == (413, "request_too_large")
    line = examples(1)
    much = part("file", line * (LIMIT // len(line) + 1), "a.jsonl")
    assert upload(guest, PURPOSE + much + END).json()["error"]["code"] == "file_too_large"
    fits = part("file", line * (LIMIT // len(line)), "a.jsonl")
    assert upload(guest, PURPOSE + fits + END).status_code == 200

    def endless() -> Iterator[bytes]:
        yield PURPOSE + part("file", b"", "a.jsonl")[:-2]
        for _ in range(400):
            yield line * 100

    assert upload(guest, endless()).status_code == 413
    assert guest.left() == (1, 1)
    with guest.http as http:
        long = http.post("/v1/fine_tuning/jobs", json={"model": BASE, "training_file": "f" * 20_000})
        assert (long.status_code, long.json()["error"]["code"]) == (413, "request_too_large")
        chunked = http.post(
            "/v1/fine_tuning/jobs", content=iter([b" " * 15_000] * 2), headers={"Content-Type": "application/json"}
        )
        assert (chunked.status_code, chunked.json()["error"]["code"]) == (413, "request_too_large")


def test_a_slow_body_is_not_waited_for(guest: Tenant) -> None:
    silent = begin_upload(guest, "Content-Length: 5000", PURPOSE)
    assert read_answer(silent) == (408, "request_timeout")
    dripping = begin_upload(guest, "Content-Length: 5000", PURPOSE)
    dripping.settimeout(0.1)
    with suppress(OSError):
        for _ in range(60):
            dripping.sendall(b"x")
            with suppress(TimeoutError):
                if dripping.recv(1, socket.MSG_PEEK):
                    break
    dripping.settimeout(10)
    assert read_answer(dripping) == (408, "request_timeout")
    assert guest.left() == (0, 0)


def test_a_client_that_leaves_leaves_nothing(guest: Tenant) -> None:
    body = PURPOSE + part("file", examples(500), "a.jsonl")
    connection = begin_upload(guest, f"Content-Length: {2 * len(body)}", body)
    time.sleep(0.2)
    connection.close()
    time.sleep(0.3)
    assert guest.left() == (0, 0)
    staged = [path for path in (guest.place.settings.data_dir / "objects").rglob("*") if path.is_file()]
    assert not [path for path in staged if ".staging" in path.parts]


def test_names_are_labels_and_nothing_more(guest: Tenant) -> None:
    for name, shown in {
        "../../etc/passwd": "passwd",
        "C:\\x\\y.jsonl": "y.jsonl",
        "a\u202eb\u200bc.jsonl": "abc.jsonl",
        "=cmd|'calc'!A0.jsonl": "=cmd|'calc'!A0.jsonl",
        "n" * 300: "n" * 255,
        "\x01": "upload",
    }.items():
        form = PURPOSE + part("file", examples(1), name) + END
        assert upload(guest, form).json().get("filename") == shown
    extended = PURPOSE + part("file", examples(1), "X").replace(b'filename="X"', b"filename*=utf-8''%C3%A4.jsonl") + END
    assert upload(guest, extended).json()["filename"] == "ä.jsonl"
