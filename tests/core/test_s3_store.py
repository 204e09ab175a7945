"""The store on S3, and what it may meet: lost answers, cut and corrupt bodies, a store away; signed addresses."""

from __future__ import annotations

import asyncio
import random
import threading
import urllib.request
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import obstore
import pytest

from core.errors import AttuneError, Unavailable
from core.store.presign import presigned
from core.store.storage import Storage, StorageCorrupt, open_storage, s3_store
from tests.core.stored import MIB, blocks, settings_of, stored


class Faults:
    """What the proxy does to the next requests: `turn` is asked with the method and path of each."""

    def __init__(self) -> None:
        self.turn: Callable[[str, str], str] = lambda method, path: ""
        self.landed = 0


@pytest.fixture
def faulty(s3_settings: dict[str, str]) -> Iterator[tuple[Storage, Faults]]:
    """The store behind a proxy that refuses, loses answers, cuts and corrupts bodies."""
    faults = Faults()
    upstream = urlsplit(s3_settings["ATTUNE_S3_ENDPOINT"]).netloc

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = faults.turn(self.command, self.path)
            faults.landed += bool(fault)
            if fault == "busy":
                self.send_response(503)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            connection = HTTPConnection(upstream, timeout=30)
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            data = answer.read()
            connection.close()
            if fault == "lose":
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "transfer-encoding", "date", "server"):
                    self.send_header(name, value)
            self.end_headers()
            if fault == "cut":
                self.close_connection = True
                data = data[: len(data) // 2]
            if fault == "corrupt":
                data = data[:-1] + bytes([data[-1] ^ 1])
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    yield open_storage(settings_of({**s3_settings, "ATTUNE_S3_ENDPOINT": endpoint})), faults
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_busy_s3_is_asked_again(faulty: tuple[Storage, Faults]) -> None:
    storage, faults = faulty
    random_numbers = random.Random(7)
    faults.turn = lambda method, path: "busy" if random_numbers.random() < 0.2 else ""

    for number in range(12):
        data = random.Random(number).randbytes(1000)
        storage.put_bytes(f"k/{number}", data)
        assert b"".join(storage.open(f"k/{number}")) == data

    assert faults.landed >= 3


@pytest.mark.parametrize("size", [1000, 9 * MIB])
def test_an_answer_that_was_lost_is_a_success(faulty: tuple[Storage, Faults], size: int) -> None:
    storage, faults = faulty
    data = random.Random(size).randbytes(size)
    asked: set[tuple[str, str]] = set()

    def once_each(method: str, path: str) -> str:
        if method in ("PUT", "POST") and (method, path) not in asked:
            asked.add((method, path))
            return "lose"
        return ""

    faults.turn = once_each
    # what obstore does not repeat itself, the caller does: its key is the same
    try:
        written = storage.put_bytes("k", data)
    except Unavailable:
        written = storage.put_bytes("k", data)

    assert written == stored(data)
    assert faults.landed >= 1
    assert b"".join(storage.open("k")) == data


def test_a_body_cut_short_is_never_taken_for_the_whole(faulty: tuple[Storage, Faults], tmp_path: Path) -> None:
    storage, faults = faulty
    written = storage.put_stream("k", blocks(4))

    faults.turn = lambda method, path: "cut" if method == "GET" else ""
    read: list[bytes] = []
    with pytest.raises((StorageCorrupt, Unavailable)):
        read.extend(storage.open("k"))
    assert sum(map(len, read)) < written.bytes
    with pytest.raises((StorageCorrupt, Unavailable)):
        storage.fetch("k", tmp_path / "out", written.sha256)
    assert not list(tmp_path.glob("out*"))
    assert faults.landed >= 2


def test_a_corrupt_body_is_read_again(faulty: tuple[Storage, Faults], tmp_path: Path) -> None:
    storage, faults = faulty
    written = storage.put_stream("k", blocks(2))
    faults.turn = lambda method, path: "corrupt" if method == "GET" and faults.landed < 1 else ""

    assert storage.fetch("k", tmp_path / "out", written.sha256) == written
    assert faults.landed == 1

    faults.turn = lambda method, path: "corrupt" if method == "GET" else ""
    with pytest.raises(StorageCorrupt):
        storage.fetch("k", tmp_path / "again", written.sha256)


def test_a_store_that_is_away(faulty: tuple[Storage, Faults], s3_settings: dict[str, str]) -> None:
    storage, faults = faulty
    storage.put_bytes("k", b"data")
    faults.turn = lambda method, path: "busy"

    for attempt in (
        lambda: asyncio.run(storage.aopen("k")),
        lambda: list(storage.list("")),
    ):
        with pytest.raises(Unavailable) as away:
            attempt()
        assert away.value.code == "storage_unavailable"
        assert "127.0.0.1" not in away.value.message


def test_a_bucket_that_does_not_exist(s3_settings: dict[str, str]) -> None:
    with pytest.raises(AttuneError) as refused:
        open_storage(settings_of({**s3_settings, "ATTUNE_STORAGE_URL": "s3://no-such-bucket"}))
    assert refused.value.code == "storage_misconfigured"
    assert "no-such-bucket" in refused.value.message


def test_signed_addresses(s3_settings: dict[str, str], storage: Storage) -> None:
    assert storage.signed_url("k", 60, "adapter.zip") is None  # no public address was given

    public = settings_of(s3_settings, storage_public_url=s3_settings["ATTUNE_S3_ENDPOINT"])
    signing = open_storage(public)
    signing.put_bytes("models/ft:demo/adapter.zip", b"zipped")
    url = signing.signed_url("models/ft:demo/adapter.zip", 60, 'ft:demo "ä".zip')
    assert url is not None
    assert url.startswith(s3_settings["ATTUNE_S3_ENDPOINT"])
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url) as answer:
        assert answer.read() == b"zipped"
        disposition = answer.headers["Content-Disposition"]
    assert disposition == "attachment; filename=\"ft:demo ___.zip\"; filename*=UTF-8''ft%3Ademo%20%22%C3%A4%22.zip"


def test_our_signature_is_obstores(s3_settings: dict[str, str]) -> None:
    """moto checks no signature, so ours is held against another implementation's for the same second."""

    settings = settings_of(s3_settings)
    store = s3_store(settings, "bucket", "pre", "https://files.example.com")
    for _ in range(3):  # the second may change between the two
        theirs = obstore.sign(store, "GET", "a/b:c@d=e.zip", timedelta(seconds=60))
        ours = presigned(
            "GET",
            "https://files.example.com/bucket/pre/a/b:c@d=e.zip",
            region=settings.s3_region,
            access_key_id=settings.s3_access_key_id,
            secret_access_key=settings.s3_secret_access_key,
            seconds=60,
            filename=None,
        )
        if theirs == ours:
            break
    assert ours == theirs
