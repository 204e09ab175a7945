"""One contract for both stores."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from core.errors import AttuneError
from core.settings import Settings
from core.store.objects import PART_BYTES
from core.store.storage import Storage, StorageConflict, StorageMissing, Stored, open_storage
from tests.core.stored import MIB, blocks, settings_of, stored


async def as_async(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


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


def test_addresses_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for url in ("gs://bucket", "s3://", (tmp_path / "file").as_uri()):
        with pytest.raises(AttuneError) as refused:
            open_storage(Settings(storage_url=url))
        assert refused.value.code == "storage_misconfigured"
