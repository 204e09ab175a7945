"""What comes before a request may be neither long nor slow: `uvicorn --http api.http_head:BoundedHead`.

uvicorn bounds neither with httptools: whoever can connect could fill the memory with one endless header, key or no
key, or hold connections open with half of one.
"""

from __future__ import annotations

import asyncio
import json

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from core.errors import AttuneError, envelope

MAX_HEAD_BYTES = 64 * 1024  # of the request line and all headers; one read more may be in memory
HEAD_S = 30.0  # from the connection, or the first byte of a further request, to the end of the headers
TOO_LARGE = f"The address and the headers of a request may have {MAX_HEAD_BYTES} bytes together."
TOO_SLOW = "The headers of a request have to be here within half a minute."


class BoundedHead(HttpToolsProtocol):
    _head_bytes = 0
    _is_in_head = True
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        was_in_head = self._is_in_head
        super().data_received(data)
        # (a head that begins behind the end of a body is counted from the next piece on)
        if not (was_in_head and self._is_in_head) or self.transport.is_closing():
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse("431 Request Header Fields Too Large", TOO_LARGE, "head_too_large")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begin_head()

    def on_headers_complete(self) -> None:
        self._end_head()
        super().on_headers_complete()

    def _begin_head(self) -> None:
        self._end_head()
        self._is_in_head, self._head_bytes = True, 0
        self._deadline = self.loop.call_later(HEAD_S, self._refuse, "408 Request Timeout", TOO_SLOW, "head_too_slow")

    def _end_head(self) -> None:
        self._is_in_head = False
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self, status: str, message: str, code: str) -> None:
        self._end_head()
        body = json.dumps(envelope(AttuneError(message, code=code)))
        head = (
            f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close"
        )
        self.transport.write(f"{head}\r\n\r\n{body}".encode())
        self.transport.close()
