"""Requests of a minute are counted together in Redis, and by each process alone while it is away."""

from __future__ import annotations

import asyncio

from core.access.rates import WINDOW_S, Rates
from tests.services import free_port


def test_processes_count_together_in_redis(redis_url: str) -> None:
    async def count() -> list[int]:
        one, two = Rates(redis_url), Rates(redis_url)
        windows = [await rates.count("proj_a") for rates in (one, two, one, two)]
        assert all(0 < window.reset_s <= WINDOW_S for window in windows)
        windows.append(await one.count("proj_b"))
        await one.close()
        await two.close()
        return [window.used for window in windows]

    assert asyncio.run(count()) in ([1, 2, 3, 4, 1], [1, 2, 3, 1, 1], [1, 2, 1, 2, 1], [1, 1, 2, 3, 1])


def test_a_broker_that_is_away_stops_nobody() -> None:
    async def count(url: str) -> list[int]:
        rates = Rates(url)
        used = [(await rates.count("proj_a")).used for _ in range(3)]
        await rates.close()
        return used

    for url in (f"redis://127.0.0.1:{free_port()}/0", "filesystem:///nowhere"):
        assert asyncio.run(count(url))[-1] in (2, 3)
