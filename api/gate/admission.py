"""No more requests than can be answered soon: beyond that, a 503 that costs next to nothing and says when to return.

Counted from the end of a request's headers to the end of its answer. A stream, an upload or a chat that lasts for
minutes leaves the count as soon as it is known for one; `api.gate.open_bodies` sees to those.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from core.errors import Unavailable, envelope

# That answer requests: fewer than the database's pool has connections, where nobody would stand in line and whoever
# comes late can be first; what runs beside the requests has the others
THREADS = 12
PLACES = 60  # requests at once: at some hundreds a second, a fifth of a second
RETRY_S = (1, 4)  # spread, or those that were refused together come back together
SAID_EVERY_S = 5.0
LINE = "line"  # the app's word for its `Line`; an app that says none takes everybody
PLACE = "place"  # a request's word for its `Place`
REFUSED = "refused"  # of a request that its front door lets through to be refused in good manners
log = structlog.get_logger()


def overloaded() -> Unavailable:
    message = "Too many requests are waiting; try again in a moment."
    return Unavailable(message, code="overloaded", retry_after_s=random.randint(*RETRY_S))  # noqa: S311 - no secret


BODY = json.dumps(envelope(overloaded())).encode()


class Line:
    """The requests of one process that are being answered. Used from its event loop."""

    def __init__(self, count: Callable[[str, int], None]) -> None:
        """`count` is told code and status of every refusal."""
        self.inside = 0
        self._count = count
        self._unsaid = 0
        self._said_at = -SAID_EVERY_S

    def is_full(self) -> bool:
        return self.inside >= PLACES

    def enter(self) -> Place:
        self.inside += 1
        return Place(self)

    def left(self) -> None:
        self.inside -= 1

    def refuse(self) -> int:
        """Count one refusal; returns in how many seconds to return. One line of the log tells of many."""
        self._count("overloaded", 503)
        self._unsaid += 1
        now = time.monotonic()
        if now - self._said_at >= SAID_EVERY_S:
            log.warning("requests_refused", code="overloaded", number=self._unsaid)
            self._unsaid, self._said_at = 0, now
        return random.randint(*RETRY_S)  # noqa: S311 - no secret


class Place:
    """One request's, until it leaves."""

    def __init__(self, line: Line) -> None:
        self._line: Line | None = line

    def leave(self) -> None:
        if self._line is not None:
            self._line.left()
            self._line = None

    def around(self, app: ASGIApp) -> ASGIApp:
        """`app`, which leaves at the end of its answer."""

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await app(scope, receive, send)
            finally:
                self.leave()

        return answer
