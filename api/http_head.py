"""What comes before a request may be neither long, nor slow, nor many: `uvicorn --http api.http_head:BoundedHead`.

uvicorn bounds none of it with httptools: whoever can connect could fill the memory with one endless header, key or no
key, or hold connections open with half of one until no file could be opened.
"""

from __future__ import annotations

import asyncio
import json
import math
import resource

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.edge import ALWAYS, UNLESS_SET
from core.errors import AttuneError, Unavailable, envelope

MAX_HEAD_BYTES = 64 * 1024  # of the request line and all headers; one read more may be in memory
HEAD_S = 30.0  # from the connection, or the first byte of a further request, to the end of the headers
TOO_LARGE = AttuneError(
    f"The address and the headers of a request may have {MAX_HEAD_BYTES} bytes together.", code="head_too_large"
)
TOO_SLOW = AttuneError("The headers of a request have to be here within half a minute.", code="head_too_slow")
UNREADABLE = AttuneError("This is no request of HTTP/1.1.", code="invalid_http")
TOO_MANY = Unavailable(
    "This server holds as many connections as it may; try again in a moment.", code="overloaded", retry_after_s=2
)
MAX_CONNECTIONS = "max_connections"  # the app's word for how many; an app that says none has no bound
OTHER_FILES = 256  # the database, the store, the programs beside
FILES_EACH = 2  # a chat and the dashboard ask on by a connection of their own
log = structlog.get_logger()


def room(wanted: int) -> int:
    """How many connections there may be: `wanted`, or as many as this process may open files for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = FILES_EACH * wanted + OTHER_FILES
    may = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < may:
        resource.setrlimit(resource.RLIMIT_NOFILE, (may, hard))
    found = max(1, min(wanted, (may - OTHER_FILES) // FILES_EACH))
    if found < wanted:
        log.warning("fewer_connections", wanted=wanted, may=found, advice=f"raise `ulimit -Hn` to {needed}")
    return found


class BoundedHead(HttpToolsProtocol):
    _head_bytes = 0
    _is_in_head = True
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin_head()
        if len(self.connections) > self.app_state.get(MAX_CONNECTIONS, math.inf):
            self._refuse("503 Service Unavailable", TOO_MANY)

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
            self._refuse("431 Request Header Fields Too Large", TOO_LARGE)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begin_head()

    def on_headers_complete(self) -> None:
        self._end_head()
        super().on_headers_complete()

    def _begin_head(self) -> None:
        self._end_head()
        self._is_in_head, self._head_bytes = True, 0
        self._deadline = self.loop.call_later(HEAD_S, self._refuse, "408 Request Timeout", TOO_SLOW)

    def _end_head(self) -> None:
        self._is_in_head = False
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def send_400_response(self, msg: str) -> None:
        """uvicorn's word for what it cannot read, in ours."""
        self._refuse("400 Bad Request", UNREADABLE)

    def _refuse(self, status: str, error: AttuneError) -> None:
        self._end_head()
        body = json.dumps(envelope(error))
        own = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
        if error.retry_after_s is not None:
            own["retry-after"] = f"{error.retry_after_s:.0f}"
        lines = [f"{name}: {value}" for name, value in {**ALWAYS, **UNLESS_SET, **own}.items()]
        self.transport.write("\r\n".join([f"HTTP/1.1 {status}", *lines, "", body]).encode())
        self.transport.close()
