"""No more requests than can be answered soon: beyond that, a 503 that costs next to nothing and says when to return.

What waits is counted where it waits: for the threads that every request with a database needs. A stream, an upload
or a chat that lasts for minutes holds none of them, and counts for nothing.
"""

from __future__ import annotations

import random

from anyio import to_thread

from core.errors import Unavailable

# That answer requests: fewer than the database's pool has connections, where nobody would stand in line and whoever
# comes late can be first; what runs beside the requests has the others
THREADS = 12
LINE = 48  # requests that may wait for a thread: at some hundreds a second, a fifth of a second
RETRY_S = (1.0, 4.0)  # spread, or those that were refused together come back together


def admit(path: str) -> None:
    """Raises the 503 of a request that would wait too long. To be called in the event loop.

    A stream waits in any line: an `EventSource` that is refused once does not come back.
    """
    if path.endswith("/stream"):
        return
    limiter = to_thread.current_default_thread_limiter()
    if limiter.statistics().tasks_waiting >= LINE:
        raise Unavailable(
            "Too many requests are waiting; try again in a moment.",
            code="overloaded",
            retry_after_s=random.uniform(*RETRY_S),  # noqa: S311 - no secret
        )
