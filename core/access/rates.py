"""How many requests a project makes in a minute: counted in Redis where it is the broker, else by this process.

Minutes are the clock's, so that a limit holds exactly in each. A broker that is away must not stop the service:
the process then counts for itself.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

WINDOW_S = 60
DOWN_S = 5.0  # a broker that failed is left alone so long: each question would hold up a request
log = structlog.get_logger()
# One clock for all web processes: the server's
_COUNT = f"""
local now = tonumber(redis.call('TIME')[1])
local key = KEYS[1] .. ':' .. (now - now % {WINDOW_S})
local used = redis.call('INCR', key)
redis.call('EXPIRE', key, {2 * WINDOW_S})
return {{used, {WINDOW_S} - now % {WINDOW_S}}}
"""


@dataclass(frozen=True)
class Window:
    """`used`: requests of this minute, with this one. `reset_s`: until the next begins."""

    used: int
    reset_s: int


class Rates:
    """One instance a process, used from its event loop."""

    def __init__(self, broker_url: str) -> None:
        self._redis = (
            Redis.from_url(broker_url, socket_timeout=0.5, socket_connect_timeout=0.5)
            if urlsplit(broker_url).scheme in ("redis", "rediss")
            else None
        )
        self._minute = 0
        self._used: dict[str, int] = {}
        self._down_until = 0.0

    async def count(self, project_id: str) -> Window:
        """Count one request."""
        if self._redis is not None and time.monotonic() >= self._down_until:
            try:
                answer = self._redis.eval(_COUNT, 1, f"attune:requests:{project_id}")
                used, reset_s = await cast(Awaitable[list[int]], answer)
                return Window(used, reset_s)
            except (RedisError, OSError, TimeoutError) as error:
                self._down_until = time.monotonic() + DOWN_S
                log.warning("rates_counted_alone", error=str(error))
        return self._count_alone(project_id)

    def _count_alone(self, project_id: str) -> Window:
        now = int(time.time())
        if now // WINDOW_S != self._minute:
            self._minute = now // WINDOW_S
            self._used.clear()
        self._used[project_id] = self._used.get(project_id, 0) + 1
        return Window(self._used[project_id], WINDOW_S - now % WINDOW_S)

    async def close(self) -> None:
        if self._redis is not None:
            await self._redis.aclose()
