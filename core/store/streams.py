"""Bytes on their way: counted and hashed as they pass, and held back at the end until they are proven."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType

from core.store.errors import StorageCorrupt

READ_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Stored:
    """What an object holds."""

    bytes: int
    sha256: str


class Tally:
    def __init__(self) -> None:
        self._bytes = 0
        self._sha256 = hashlib.sha256()

    def add(self, chunk: bytes) -> None:
        self._bytes += len(chunk)
        self._sha256.update(chunk)

    def stored(self) -> Stored:
        return Stored(self._bytes, self._sha256.hexdigest())


class Checked:
    """Passes chunks on; the last one only when size and hash agree."""

    def __init__(self, key: str, size: int, sha256: str | None) -> None:
        self._key = key
        self._size = size
        self._sha256 = sha256
        self._tally = Tally()
        self._held: bytes | None = None

    def release(self, chunk: bytes) -> Iterator[bytes]:
        self._tally.add(chunk)
        if self._held is not None:
            yield self._held
        self._held = chunk

    def end(self) -> Iterator[bytes]:
        stored = self._tally.stored()
        if stored.bytes != self._size:
            raise StorageCorrupt(f"{self._key} ended after {stored.bytes} of {self._size} bytes")
        if self._sha256 is not None and stored.sha256 != self._sha256:
            raise StorageCorrupt(f"{self._key} has sha256 {stored.sha256}, expected {self._sha256}")
        if self._held is not None:
            yield self._held


def hashed(chunks: Iterable[bytes], write: Callable[[bytes], object] | None = None) -> Stored:
    tally = Tally()
    for chunk in chunks:
        tally.add(chunk)
        if write is not None:
            write(chunk)
    return tally.stored()


async def blocks_of(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in blocks of at least READ_BYTES (network chunks are small, a thread's turn is dear)."""
    block = bytearray()
    async for chunk in chunks:
        if not block and len(chunk) >= READ_BYTES:
            yield chunk
            continue
        block += chunk
        if len(block) >= READ_BYTES:
            yield bytes(block)
            block.clear()
    if block:
        yield bytes(block)


class Behind:
    """Blocks worked on in a thread, one at a time and in order, while the next one is on its way.

    `run` waits for the block before, and raises what its work raised; leaving the `async with` waits for the last.
    """

    def __init__(self) -> None:
        self._work: asyncio.Task[None] | None = None

    async def run(self, work: Callable[[bytes], None], block: bytes) -> None:
        await self.settle()
        self._work = asyncio.create_task(asyncio.to_thread(work, block))

    async def settle(self) -> None:
        """Wait until nothing is being worked on. A thread cannot be stopped: a cancelled caller waits as well."""
        work, self._work = self._work, None
        if work is None:
            return
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait([work])
            raise

    async def __aenter__(self) -> Behind:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            await self.settle()
        elif self._work is not None:
            await asyncio.wait([self._work])  # what it raises comes second to `error`
            if not self._work.cancelled():
                self._work.exception()  # seen, so that asyncio does not warn of it


async def nothing() -> AsyncIterator[bytes]:
    for chunk in ():
        yield chunk
