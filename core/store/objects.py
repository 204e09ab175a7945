"""Objects by key: streamed both ways, hashed on the way, never overwritten. Which store, `core.store.storage` decides.

A writer that lost the answer writes again: the same bytes under the same key are a success, other bytes a
`StorageConflict`. Keys of jobs hold the attempt, so two attempts never meet under one key.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from core import crash_points
from core.durable import NewFile
from core.errors import AttuneError, Unavailable
from core.store.errors import StorageConflict, StorageCorrupt, StorageMissing, Taken, answers, folder_takes, unusable
from core.store.streams import READ_BYTES, Behind, Checked, Stored, Tally, blocks_of, hashed, nothing

PART_BYTES = 8 * 1024 * 1024  # of a multipart upload; S3 takes 10,000 parts, so objects end at 78 GiB
PARTS_AT_ONCE = 2  # bounds an upload's memory to a few parts
STAGING = ".staging"  # folder store: files in the making
_KEY = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._:@=-]*)(?:/[A-Za-z0-9][A-Za-z0-9._:@=-]*)*")


@dataclass(frozen=True)
class Entry:
    """One object of a listing."""

    key: str
    bytes: int
    modified: datetime


class Storage:
    """One store. Every method may raise Unavailable when the store is away, after retries with backoff.

    Keys are like `projects/<id>/files/<id>`: segments of ASCII letters, digits and `._:@=-`.
    """

    def __init__(
        self,
        address: str,
        store: LocalStore | S3Store,
        *,
        folder: Path | None = None,  # of a folder store: its writes are ours, since obstore does not sync
        sign: Callable[[str, int, str | None], str] | None = None,
    ) -> None:
        self.address = address
        self._store = store
        self._folder = folder
        self._sign = sign

    def __repr__(self) -> str:
        return f"Storage({self.address!r})"

    def check(self) -> None:
        """Raise unless the store answers now: AttuneError for a missing bucket, else Unavailable."""
        if self._folder is not None and not (self._folder / STAGING).is_dir():
            raise Unavailable(f"The storage folder {self._folder} is gone.", code="storage_unavailable")
        try:
            with answers(self.address):
                next(iter(obstore.list(self._store, ".probe", chunk_size=1)), None)
        except Unavailable as error:
            if "NoSuchBucket" in str(error.__cause__):
                message = f"The bucket of {self.address} does not exist; create it, or change ATTUNE_STORAGE_URL."
                raise unusable(message) from error
            raise

    # Writing

    def put_bytes(self, key: str, data: bytes) -> Stored:
        return self.put_stream(key, [data])

    def put_file(self, key: str, path: Path) -> Stored:
        with path.open("rb") as file:
            return self.put_stream(key, iter(lambda: file.read(READ_BYTES), b""))

    def put_stream(self, key: str, chunks: Iterable[bytes]) -> Stored:
        """Write an object of any size in constant memory. It is visible whole, or (when `chunks` raises, too) not
        at all. Raises StorageConflict when the key holds other bytes."""
        _check_key(key)
        tally = Tally()
        if self._folder is not None:
            with self._new_file() as new:
                for chunk in chunks:
                    tally.add(chunk)
                    with folder_takes(key):
                        new.write(chunk)
                return self._publish(new, key, tally.stored())
        stream = iter(chunks)
        head = bytearray()
        for chunk in stream:
            tally.add(chunk)
            head += chunk
            if len(head) > PART_BYTES:
                break
        else:
            return self._put_small(key, bytes(head), tally.stored())
        whole = False
        try:
            # An error within this block aborts the upload
            with obstore.open_writer(self._store, key, buffer_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE) as writer:
                writer.write(bytes(head))
                head.clear()
                for chunk in stream:
                    tally.add(chunk)
                    writer.write(chunk)
                whole = True
                self._refuse_taken(key)
        except (BaseError, Taken) as error:
            return self._settle(key, tally.stored() if whole else None, error)
        return tally.stored()

    async def aput_stream(self, key: str, chunks: AsyncIterable[bytes]) -> Stored:
        """`put_stream` for an event loop, which neither the disk nor the hashing holds up."""
        _check_key(key)
        tally = Tally()
        blocks = blocks_of(chunks)
        if self._folder is not None:
            with self._new_file() as new:

                def take(block: bytes) -> None:
                    tally.add(block)
                    with folder_takes(key):
                        new.write(block)

                async with Behind() as behind:
                    async for block in blocks:
                        await behind.run(take, block)
                return await asyncio.to_thread(self._publish, new, key, tally.stored())
        head = bytearray()
        async for block in blocks:
            await asyncio.to_thread(tally.add, block)
            head += block
            if len(head) > PART_BYTES:
                break
        else:
            return await asyncio.to_thread(self._put_small, key, bytes(head), tally.stored())
        whole = False
        try:
            async with obstore.open_writer_async(
                self._store, key, buffer_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE
            ) as writer:
                await writer.write(bytes(head))
                head.clear()
                async for block in blocks:
                    await asyncio.to_thread(tally.add, block)
                    await writer.write(block)
                whole = True
                await asyncio.to_thread(self._refuse_taken, key)
        except (BaseError, Taken) as error:
            return await asyncio.to_thread(self._settle, key, tally.stored() if whole else None, error)
        return tally.stored()

    def _new_file(self) -> NewFile:
        assert self._folder is not None
        with folder_takes(STAGING):
            return NewFile(self._folder / STAGING)

    def _publish(self, new: NewFile, key: str, stored: Stored) -> Stored:
        assert self._folder is not None
        try:
            with folder_takes(key):
                new.publish(os.path.join(self._folder, key))
        except Taken as error:
            return self._settle(key, stored, error)
        return stored

    def _put_small(self, key: str, data: bytes, stored: Stored) -> Stored:
        crash_points.here("store.written")
        try:
            obstore.put(self._store, key, data, mode="create", use_multipart=False)
        except BaseError as error:
            return self._settle(key, stored, error)
        crash_points.here("store.published")
        return stored

    def _refuse_taken(self, key: str) -> None:
        """Multipart uploads have no create-only mode in obstore: look just before the upload completes."""
        if self.exists(key):
            raise Taken(key)

    def _settle(self, key: str, stored: Stored | None, error: Exception) -> Stored:
        """A write failed, or its key was taken. What the key holds now says which, and whether that is success.
        `stored` is None when the source was not read to its end."""
        try:
            if stored is None:
                raise StorageMissing(key)
            same = self.stat(key) == stored.bytes and hashed(self.open(key)) == stored
        except StorageMissing:
            with answers(key):
                raise error from None
        if same:
            return stored
        raise StorageConflict(f"{key} already holds other bytes") from error

    # Reading

    def open(
        self, key: str, offset: int = 0, length: int | None = None, *, sha256: str | None = None
    ) -> Iterator[bytes]:
        """The object's bytes, or a range of them, in chunks of about 1 MiB.

        Raises StorageMissing at once; later StorageCorrupt for a body cut short. With `sha256` (whole objects
        only) the last chunk is held back until the hash agrees, so a corrupt read never completes.
        """
        options = _range(offset, length, sha256)
        if length == 0:
            return iter(())
        with answers(key):
            try:
                result = obstore.get(self._store, _check_key(key), options=options)
            except BaseError:
                self._refuse_beyond(key, offset)
                raise
        return self._chunks(key, result, sha256)

    def _chunks(self, key: str, result: obstore.GetResult, sha256: str | None) -> Iterator[bytes]:
        check = Checked(key, result.range[1] - result.range[0], sha256)
        stream = result.stream(READ_BYTES)
        while True:
            with answers(key):
                chunk = next(stream, None)
            if chunk is None:
                break
            yield from check.release(chunk)
        yield from check.end()

    async def aopen(
        self, key: str, offset: int = 0, length: int | None = None, *, sha256: str | None = None
    ) -> AsyncIterator[bytes]:
        """`open` for an event loop: `async for chunk in await storage.aopen(key)`."""
        options = _range(offset, length, sha256)
        if length == 0:
            return nothing()
        with answers(key):
            try:
                result = await obstore.get_async(self._store, _check_key(key), options=options)
            except BaseError:
                await asyncio.to_thread(self._refuse_beyond, key, offset)
                raise
        return self._achunks(key, result, sha256)

    async def _achunks(self, key: str, result: obstore.GetResult, sha256: str | None) -> AsyncIterator[bytes]:
        check = Checked(key, result.range[1] - result.range[0], sha256)
        stream = aiter(result.stream(READ_BYTES))
        while True:
            with answers(key):
                chunk = await anext(stream, None)
            if chunk is None:
                break
            for released in check.release(chunk):
                yield released
        for released in check.end():
            yield released

    def _refuse_beyond(self, key: str, offset: int) -> None:
        if offset and offset >= (size := self.stat(key)):
            raise AttuneError(
                f"The range starts at byte {offset}, but the object has {size} bytes.",
                code="range_not_satisfiable",
                status=416,
            )

    def fetch(self, key: str, path: Path, sha256: str | None = None) -> Stored:
        """Download to `path`, which appears whole. A hash that disagrees is read once more, then StorageCorrupt."""
        part = path.with_name(path.name + ".part")
        for last_try in (False, True):
            try:
                with part.open("wb") as file:
                    stored = hashed(self.open(key, sha256=sha256), write=file.write)
            except StorageCorrupt:
                part.unlink()
                if last_try:
                    raise
            except BaseException:
                part.unlink(missing_ok=True)
                raise
            else:
                part.replace(path)
                return stored
        raise AssertionError("unreachable")

    def stat(self, key: str) -> int:
        """The object's size in bytes. Raises StorageMissing."""
        with answers(key):
            return obstore.head(self._store, _check_key(key))["size"]

    def exists(self, key: str) -> bool:
        try:
            self.stat(key)
        except StorageMissing:
            return False
        return True

    def list(self, prefix: str) -> Iterator[Entry]:
        """The objects below `prefix`, which ends at a segment's end; "" lists all. In no promised order."""
        listing = obstore.list(self._store, _check_key(prefix) if prefix else None)
        while True:
            with answers(prefix):
                batch = next(listing, None)
            if batch is None:
                return
            for meta in batch:
                if not meta["path"].startswith(STAGING):
                    yield Entry(meta["path"], meta["size"], meta["last_modified"])

    # Deleting

    def delete(self, key: str) -> None:
        """Remove one object; one that is not there is fine."""
        self._delete([_check_key(key)])

    def delete_prefix(self, prefix: str) -> int:
        """Remove every object below `prefix`; returns how many. Never the whole store."""
        deleted = 0
        keys = (entry.key for entry in self.list(_check_key(prefix)))
        while batch := list(itertools.islice(keys, 1000)):  # what one S3 request deletes
            self._delete(batch)
            deleted += len(batch)
        return deleted

    def _delete(self, keys: Sequence[str]) -> None:
        if self._folder is None:
            with answers(keys[0]):
                obstore.delete(self._store, keys)
            return
        for key in keys:
            with answers(key), suppress(FileNotFoundError):
                obstore.delete(self._store, key)

    # Handing out

    def signed_url(self, key: str, seconds: int, filename: str | None = None) -> str | None:
        """An address from which a browser may GET the object for a while, or None: stream it instead."""
        return self._sign(_check_key(key), seconds, filename) if self._sign is not None else None


def _range(offset: int, length: int | None, sha256: str | None) -> obstore.GetOptions:
    if offset < 0 or (length or 0) < 0 or (sha256 is not None and (offset or length is not None)):
        raise ValueError("a range has no negative end, and a hash is of a whole object")
    if length is not None:
        return {"range": (offset, offset + length)}
    return {"range": {"offset": offset}} if offset else {}


def _check_key(key: str) -> str:
    if len(key) > 512 or _KEY.fullmatch(key) is None:
        raise ValueError(f"not a storage key: {key!r}")
    return key
