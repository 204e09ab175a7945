"""A TCP proxy that misbehaves on demand: refuses, swallows, delays, resets, or cuts after so many bytes.

One stands before each of Postgres, Redis, the S3 server and a webhook receiver.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum

BLOCK = 65536


class Mode(StrEnum):
    PASS = "pass"
    REFUSE = "refuse"  # connections end at once, the open ones too
    SWALLOW = "swallow"  # nothing gets through and nothing ends: a black hole
    CUT_ANSWER = "cut_answer"  # requests arrive, and the connection is reset before any answer


@dataclass
class Seen:
    """What went through, and what was hit by a fault."""

    connections: int = 0
    hit: int = 0


class Proxy:
    """Forwards 127.0.0.1:`port` to 127.0.0.1:`target`. Thread-safe; runs an event loop of its own."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.seen = Seen()
        self.delay_s = 0.0
        self._mode = Mode.PASS
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._passing = asyncio.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, name=f"proxy-{self.port}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._passing.set()
        self._loop.run_until_complete(asyncio.start_server(self._serve, sock=self._listener))
        self._loop.run_forever()

    def close(self) -> None:
        self.set(Mode.REFUSE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5.0)

    def set(self, mode: Mode) -> None:
        """From now on, and for what is already open."""
        done = threading.Event()

        def change() -> None:
            self._mode = mode
            if mode is Mode.SWALLOW:
                self._passing.clear()
            else:
                self._passing.set()
            if mode in (Mode.REFUSE, Mode.CUT_ANSWER):
                self.seen.hit += len(self._writers)
                for writer in list(self._writers):
                    _reset(writer)
            done.set()

        self._loop.call_soon_threadsafe(change)
        done.wait(5.0)

    @contextmanager
    def being(self, mode: Mode) -> Iterator[None]:
        self.set(mode)
        try:
            yield
        finally:
            self.set(Mode.PASS)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.seen.connections += 1
        if self._mode is Mode.REFUSE:
            self.seen.hit += 1
            _reset(writer)
            return
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            _reset(writer)
            return
        self._writers |= {writer, there_writer}
        try:
            await asyncio.gather(
                self._pump(reader, there_writer, answer=False), self._pump(there_reader, writer, answer=True)
            )
        finally:
            self._writers -= {writer, there_writer}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answer: bool) -> None:
        with suppress(OSError):
            while block := await reader.read(BLOCK):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if self._mode is Mode.SWALLOW:
                    self.seen.hit += 1
                    await self._passing.wait()
                if answer and self._mode is Mode.CUT_ANSWER:
                    self.seen.hit += 1
                    _reset(writer)
                    break
                writer.write(block)
                await writer.drain()
        with suppress(OSError, RuntimeError):
            writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """End with RST, as a machine does that has gone."""
    with suppress(OSError, AttributeError):
        transport = writer.transport
        raw: socket.socket = transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
