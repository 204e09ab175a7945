"""A request's body within bounds: not too long, not too slow, and left unread when the answer is known without it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Message, Receive, Scope, Send

from core.errors import AttuneError

DRAINED_BYTES = 2 * 1024 * 1024  # of an unwanted body; a client that is still sending may miss an answer otherwise
DRAINED_S = 1.0


@dataclass(frozen=True)
class Pace:
    """How slow a client may be. Only time spent waiting for it counts, not time that we need ourselves."""

    idle_s: float = 30.0  # between two pieces
    window_s: float = 30.0
    bytes_per_s: float = 16 * 1024  # averaged over each window


class Body:
    """Counts what `receive` brings. Raises the 413 or 408 from within the endpoint's reading."""

    def __init__(self, scope: Scope, receive: Receive, max_bytes: int, pace: Pace) -> None:
        headers = Headers(scope=scope)
        announced = headers.get("content-length")
        self._receive = receive
        self._max_bytes = max_bytes
        self._pace = pace
        self._is_read = announced in (None, "0") and "transfer-encoding" not in headers
        self._bytes = 0
        self._waited_s = 0.0
        self._window_bytes = 0
        self.announced = int(announced) if announced is not None and announced.isdecimal() else 0

    async def receive(self) -> Message:
        if self._is_read:  # from here on only a disconnect can come, and that may take hours
            return await self._receive()
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._pace.idle_s):
                message = await self._receive()
        except TimeoutError as error:
            raise self._too_slow(f"nothing came for {self._pace.idle_s:g} s") from error
        if message["type"] != "http.request":
            self._is_read = True
            return message
        self._is_read = not message.get("more_body", False)
        size = len(message.get("body", b""))
        self._bytes += size
        if self._bytes > self._max_bytes:
            raise too_large(self._max_bytes)
        self._keep_pace(size, time.monotonic() - started)
        return message

    def _keep_pace(self, size: int, waited_s: float) -> None:
        self._window_bytes += size
        self._waited_s += waited_s
        if self._waited_s < self._pace.window_s:
            return
        if not self._is_read and self._window_bytes < self._pace.bytes_per_s * self._waited_s:
            raise self._too_slow(f"{self._window_bytes} bytes came in {self._waited_s:.0f} s")
        self._waited_s, self._window_bytes = 0.0, 0

    def _too_slow(self, what: str) -> AttuneError:
        return AttuneError(f"The request's body is too slow: {what}.", code="request_timeout", status=408)

    def closing(self, send: Send) -> Send:
        """`send`, such that an answer to a body that was not read to its end also ends the connection."""

        async def send_and_close(message: Message) -> None:
            if self._is_read:
                await send(message)
            elif message["type"] == "http.response.start":
                MutableHeaders(scope=message)["connection"] = "close"
                await send(message)
            elif message["type"] == "http.response.body" and not message.get("more_body", False):
                await send({**message, "more_body": True})
                await self._drain()
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                await send(message)

        return send_and_close

    async def _drain(self) -> None:
        drained = 0
        try:
            async with asyncio.timeout(DRAINED_S):
                while drained < DRAINED_BYTES:
                    message = await self._receive()
                    drained += len(message.get("body", b""))
                    if message["type"] != "http.request" or not message.get("more_body", False):
                        return
        except TimeoutError:
            return


def too_large(max_bytes: int) -> AttuneError:
    limit = f"{max_bytes / 1024**2:g} MiB" if max_bytes >= 1024**2 else f"{max_bytes} bytes"
    return AttuneError(f"The request's body is larger than {limit}.", code="request_too_large", status=413)
