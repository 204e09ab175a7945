"""What several requests want at once: made once, kept while it is used, dropped for the next."""

from __future__ import annotations

import asyncio

import pytest

from core.errors import Unavailable
from worker.serve.shared import Shared


def test_what_several_wait_for_is_made_once_and_what_is_used_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.serve.shared.WAIT_S", 0.2)
    made: list[str] = []
    dropped: list[str] = []

    async def drop(key: str, value: str) -> None:
        dropped.append(key)

    async def scenario() -> None:
        shared: Shared[str, str] = Shared("things", 2, drop)

        async def make(key: str) -> str:
            made.append(key)
            await asyncio.sleep(0.01)
            if key == "bad":
                raise ValueError(key)
            return key.upper()

        async def use(key: str, seconds: float = 0.0) -> str:
            async with shared.use(key, lambda: make(key)) as value:
                await asyncio.sleep(seconds)
                return value

        assert await asyncio.gather(*(use("a") for _ in range(5))) == ["A"] * 5
        assert made == ["a"]
        await asyncio.gather(use("b"), use("a"))
        await use("c")
        assert dropped == ["b"] or dropped == ["a"]
        results = await asyncio.gather(use("bad"), use("bad"), return_exceptions=True)
        assert [type(result) for result in results] == [ValueError, ValueError]
        assert made.count("bad") == 1
        await shared.clear()
        assert not shared.values()
        # A waiter that goes away does not take the value from the other
        first = asyncio.create_task(use("d"))
        second = asyncio.create_task(use("d"))
        await asyncio.sleep(0.001)
        first.cancel()
        assert await second == "D"
        assert made.count("d") == 1
        # All room in use: one waits, and gets it; one gives up
        busy = [asyncio.create_task(use(key, 0.1)) for key in ("e", "f")]
        await asyncio.sleep(0.02)
        assert await use("g") == "G"
        busy += [asyncio.create_task(use(key, 0.5)) for key in ("e", "f")]
        await asyncio.sleep(0.15)
        with pytest.raises(Unavailable, match="in use"):
            await use("h")
        await asyncio.gather(*busy)

    asyncio.run(scenario())
