"""One contract for both stores, and what each may meet: lost answers, cut and corrupt bodies, a store away."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import obstore
import psutil
import pytest

from core.errors import AttuneError, Unavailable
from core.objects import PART_BYTES
from core.presign import presigned
from core.settings import Settings
from core.storage import Storage, StorageConflict, StorageCorrupt, StorageMissing, Stored, open_storage, s3_store

MIB = 1024 * 1024


def settings_of(variables: dict[str, str], **more: str) -> Settings:
    given = {name.removeprefix("ATTUNE_").lower(): value for name, value in variables.items()}
    return Settings(**{**given, **more})  # pyright: ignore[reportArgumentType]


@pytest.fixture
def storage(storage_settings: dict[str, str]) -> Storage:
    return open_storage(settings_of(storage_settings))


def stored(data: bytes) -> Stored:
    return Stored(len(data), hashlib.sha256(data).hexdigest())


def blocks(count: int, seed: int = 0) -> Iterator[bytes]:
    """`count` different blocks of 1 MiB."""
    random_numbers = random.Random(seed)
    for _ in range(count):
        yield random_numbers.randbytes(MIB)


async def as_async(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


# The contract


@pytest.mark.parametrize("size", [0, 1, MIB, PART_BYTES, PART_BYTES + 1, 17 * MIB])
def test_round_trip(storage: Storage, size: int, tmp_path: Path) -> None:
    data = random.Random(size).randbytes(size)
    source = tmp_path / "source"
    source.write_bytes(data)

    assert storage.put_file("projects/p1/files/file-1", source) == stored(data)

    assert b"".join(storage.open("projects/p1/files/file-1")) == data
    assert b"".join(storage.open("projects/p1/files/file-1", sha256=stored(data).sha256)) == data
    assert storage.stat("projects/p1/files/file-1") == size
    assert storage.fetch("projects/p1/files/file-1", tmp_path / "back", stored(data).sha256) == stored(data)
    assert (tmp_path / "back").read_bytes() == data


@pytest.mark.parametrize("size", [0, 3000, 9 * MIB])
def test_round_trip_on_an_event_loop(storage: Storage, size: int) -> None:
    data = random.Random(size).randbytes(size)
    pieces = (data[start : start + 60_000] for start in range(0, size, 60_000))

    async def there_and_back() -> bytes:
        assert await storage.aput_stream("a/b", as_async(pieces)) == stored(data)
        stream = await storage.aopen("a/b", sha256=stored(data).sha256)
        return b"".join([chunk async for chunk in stream])

    assert asyncio.run(there_and_back()) == data


@pytest.mark.parametrize("way", ["sync", "async"])
def test_64_mib_stream_through_flat_memory(storage: Storage, way: str) -> None:
    process = psutil.Process()

    async def awrite() -> Stored:
        return await storage.aput_stream("big", as_async(blocks(64)))

    async def aread() -> int:
        return sum([len(chunk) async for chunk in await storage.aopen("big")])

    storage.put_stream("warm", blocks(20, seed=1))
    with peak_growth(process) as growth:
        written = storage.put_stream("big", blocks(64)) if way == "sync" else asyncio.run(awrite())
        read = sum(map(len, storage.open("big"))) if way == "sync" else asyncio.run(aread())

    assert written.bytes == read == 64 * MIB
    assert growth() < 40 * MIB


@contextmanager
def peak_growth(process: psutil.Process) -> Iterator[Callable[[], int]]:
    start = peak = process.memory_info().rss
    ended = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.005):
            peak = max(peak, process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    yield lambda: peak - start
    ended.set()
    thread.join()


def test_ranges(storage: Storage) -> None:
    storage.put_bytes("k", bytes(range(100)))

    assert b"".join(storage.open("k", 10, 5)) == bytes(range(10, 15))
    assert b"".join(storage.open("k", 90)) == bytes(range(90, 100))
    assert b"".join(storage.open("k", 90, 50)) == bytes(range(90, 100))
    assert b"".join(storage.open("k", 0, 1)) == b"\0"
    assert b"".join(storage.open("k", 5, 0)) == b""
    with pytest.raises(AttuneError) as refused:
        storage.open("k", 100)
    assert refused.value.status == 416
    with pytest.raises(AttuneError):
        storage.open("k", 200, 5)
    with pytest.raises(ValueError, match="range"):
        storage.open("k", -1)

    async def middle() -> bytes:
        return b"".join([chunk async for chunk in await storage.aopen("k", 10, 5)])

    assert asyncio.run(middle()) == bytes(range(10, 15))


@pytest.mark.parametrize("size", [10, 9 * MIB])
def test_the_same_bytes_again_are_a_success_and_others_a_conflict(storage: Storage, size: int) -> None:
    data = random.Random(1).randbytes(size)
    storage.put_bytes("k", data)

    assert storage.put_bytes("k", data) == stored(data)
    for other in (data[:-1] + b"?", data + b"?", b""):
        with pytest.raises(StorageConflict):
            storage.put_bytes("k", other)
        with pytest.raises(StorageConflict):
            asyncio.run(storage.aput_stream("k", as_async(iter([other]))))
    assert b"".join(storage.open("k")) == data


def test_of_concurrent_writers_of_one_key_one_wins_and_the_others_hear_of_it(storage: Storage) -> None:
    payloads = [bytes([number]) * 100_000 for number in range(8)]

    def write(data: bytes) -> bool:
        try:
            storage.put_bytes("contested", data)
        except StorageConflict:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(write, payloads))

    assert won.count(True) == 1
    assert b"".join(storage.open("contested")) == payloads[won.index(True)]


@pytest.mark.parametrize("count", [2, 20])
def test_a_source_that_fails_leaves_no_object(storage: Storage, count: int) -> None:
    def broken() -> Iterator[bytes]:
        yield from blocks(count)
        raise ConnectionResetError("the client went away")

    with pytest.raises(ConnectionResetError):
        storage.put_stream("k", broken())
    with pytest.raises(ConnectionResetError):
        asyncio.run(storage.aput_stream("k", as_async(broken())))

    assert not storage.exists("k")
    assert list(storage.list("")) == []


def test_missing_objects(storage: Storage, tmp_path: Path) -> None:
    for attempt in (
        lambda: storage.open("none"),
        lambda: storage.open("none", 5),
        lambda: storage.stat("none"),
        lambda: storage.fetch("none", tmp_path / "x"),
        lambda: asyncio.run(storage.aopen("none")),
    ):
        with pytest.raises(StorageMissing):
            attempt()
    assert not storage.exists("none")
    assert list(tmp_path.glob("x*")) == []


def test_list_and_delete(storage: Storage) -> None:
    for key in ("p/1/a", "p/1/b/c", "p/10/a", "q"):
        storage.put_bytes(key, key.encode())

    assert {entry.key for entry in storage.list("")} == {"p/1/a", "p/1/b/c", "p/10/a", "q"}
    listed = {entry.key: entry for entry in storage.list("p/1")}
    assert set(listed) == {"p/1/a", "p/1/b/c"}
    assert listed["p/1/b/c"].bytes == 7
    assert abs(listed["p/1/a"].modified.timestamp() - time.time()) < 600

    assert storage.delete_prefix("p/1") == 2
    storage.delete("q")
    storage.delete("q")
    assert [entry.key for entry in storage.list("")] == ["p/10/a"]
    assert storage.delete_prefix("nothing/here") == 0
    storage.put_bytes("p/1/a", b"again")
    assert b"".join(storage.open("p/1/a")) == b"again"


@pytest.mark.parametrize(
    "key", ["", "/a", "a/", "a//b", "../a", "a/../b", ".staging/x", "a b", "a\0", "é", "a" * 513, "a\n"]
)
def test_keys_that_are_none(storage: Storage, key: str, tmp_path: Path) -> None:
    for attempt in (
        lambda: storage.put_bytes(key, b""),
        lambda: storage.open(key),
        lambda: storage.stat(key),
        lambda: storage.delete(key),
        lambda: storage.delete_prefix(key),
    ):
        with pytest.raises(ValueError, match="not a storage key"):
            attempt()


def test_secrets_stay_out_of_sight(storage_settings: dict[str, str]) -> None:
    storage = open_storage(settings_of(storage_settings))
    secret = storage_settings.get("ATTUNE_S3_SECRET_ACCESS_KEY", "test-secret")
    assert secret not in repr(storage)
    assert secret not in repr(vars(storage))


# The folder store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_a_folder_object_and_its_name_are_synced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(Settings(storage_url=folder.as_uri()))
    synced: list[str] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    storage.put_bytes("a/b/c", b"data")

    # the file under its staged name, each new folder's name, and at last the object's own name
    assert [Path(path).name.split("#")[0] for path in synced] == ["new", "store", "a", "b"]
    assert (folder / "a/b/c").stat().st_mode & 0o077 == 0
    assert list((folder / ".staging").iterdir()) == []


def test_leftovers_of_dead_writers_are_removed_when_old(folder: Path) -> None:
    open_storage(Settings(storage_url=folder.as_uri()))
    old, young = folder / ".staging/new#1", folder / ".staging/new#2"
    old.touch()
    young.touch()
    os.utime(old, (0, 0))

    storage = open_storage(Settings(storage_url=folder.as_uri()))

    assert not old.exists()
    assert young.exists()
    assert list(storage.list("")) == []


def test_corrupt_folder_objects_are_seen(folder: Path, tmp_path: Path) -> None:
    storage = open_storage(Settings(storage_url=folder.as_uri()))
    written = storage.put_stream("k", blocks(3))
    with (folder / "k").open("r+b") as file:
        file.seek(2 * MIB)
        file.write(b"flipped")

    with pytest.raises(StorageCorrupt):
        storage.fetch("k", tmp_path / "out", written.sha256)
    assert not list(tmp_path.glob("out*"))
    read: list[bytes] = []
    with pytest.raises(StorageCorrupt):
        read.extend(storage.open("k", sha256=written.sha256))
    assert sum(map(len, read)) < written.bytes


def test_writers_survive_deletions_of_their_folder(folder: Path) -> None:
    storage = open_storage(Settings(storage_url=folder.as_uri()))

    def write(number: int) -> None:
        storage.put_bytes(f"a/b/{number}", b"x")
        storage.delete(f"a/b/{number}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(200)))


def test_addresses_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for url in ("gs://bucket", "s3://", (tmp_path / "file").as_uri()):
        with pytest.raises(AttuneError) as refused:
            open_storage(Settings(storage_url=url))
        assert refused.value.code == "storage_misconfigured"


# The S3 store, and a network that fails


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
