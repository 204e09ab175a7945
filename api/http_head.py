"""The front door: what comes before a request may be neither long, nor slow, nor many, and a request that would wait
too long is turned away here. `uvicorn --http api.http_head:BoundedHead`.

uvicorn bounds none of it with httptools: whoever can connect could fill the memory with one endless header, key or no
key, or hold connections open with half of one until no file could be opened. And a refusal that is worked out by the
app costs about as much as an answer, which nobody has left who is overloaded.
"""

from __future__ import annotations

import asyncio
import json
import math
import resource
from typing import cast

import structlog
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from api.gate.admission import BODY, LINE, PLACE, REFUSED, Line
from api.gate.auth import GUARDED
from api.gate.edge import ALWAYS, UNLESS_SET
from core import ids
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
UNREAD_BYTES = 64 * 1024  # of a body that is swallowed with its refusal; a larger one is left to the app to refuse
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


def _head(status: str) -> str:
    """The status line, and the headers that every answer has."""
    always = {**ALWAYS, **UNLESS_SET, "content-type": "application/json"}
    return "".join((f"HTTP/1.1 {status}\r\n", *(f"{name}: {value}\r\n" for name, value in always.items())))


TURNED_AWAY = _head("503 Service Unavailable")


class BoundedHead(HttpToolsProtocol):
    _head_bytes = 0
    _is_refused = False  # this request, whose body may still come
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
        self._unset_keepalive_if_required()  # one that was turned away within the same piece has set it
        self._begin_head()

    def on_headers_complete(self) -> None:
        line: Line | None = self.app_state.get(LINE)
        if line is not None and line.is_full() and self._may_be_refused():
            if self._is_swallowed():
                self._is_refused, self._is_in_head = True, False  # (the deadline of the head is now its body's)
                return
            self.scope.setdefault("state", {})[REFUSED] = True
        self._end_head()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._is_refused:
            super().on_message_complete()
            return
        self._is_refused = False
        self._end_head()
        self._turn_away(self.app_state[LINE])

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGIApp) -> None:  # type: ignore[override]
        line: Line | None = self.app_state.get(LINE)
        if line is not None and cycle.scope["raw_path"].startswith(GUARDED.encode()):
            place = line.enter()
            cycle.scope.setdefault("state", {})[PLACE] = place
            app = place.around(app)
        super()._start_asgi_task(cycle, app)  # type: ignore[arg-type]

    def _may_be_refused(self) -> bool:
        """A stream waits in any line: an `EventSource` that is refused once does not come back."""
        return self.url.startswith(GUARDED.encode()) and not self.url.partition(b"?")[0].endswith(b"/stream")

    def _is_swallowed(self) -> bool:
        """Is there nothing before this request, little behind it, and nobody who has to read the app's headers?"""
        before = cast(RequestResponseCycle | None, self.cycle)  # None until there is a first
        if self.expect_100_continue or not (before is None or before.response_complete):
            return False
        for name, value in self.headers:
            if name in (b"transfer-encoding", b"origin"):  # (a script of another site, who reads nothing without CORS)
                return False
            if name == b"content-length" and not (value.isdigit() and int(value) <= UNREAD_BYTES):
                return False
        return True

    def _turn_away(self, line: Line) -> None:
        assert self.parser is not None, "the connection is open"
        keep = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        own = {"x-request-id": f"req_{ids.random_text(24)}", "retry-after": str(line.refuse())}
        self._write(TURNED_AWAY, own, BODY, close=not keep)
        if keep:
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

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
        own = {} if error.retry_after_s is None else {"retry-after": f"{error.retry_after_s:.0f}"}
        self._write(_head(status), own, json.dumps(envelope(error)).encode(), close=True)

    def _write(self, head: str, own: dict[str, str], body: bytes, *, close: bool) -> None:
        own["content-length"] = str(len(body))
        if close:
            own["connection"] = "close"
        lines = "".join(f"{name}: {value}\r\n" for name, value in own.items())
        self.transport.write(f"{head}{lines}\r\n".encode() + body)
        if close:
            self.transport.close()
