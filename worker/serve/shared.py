"""Things that are slow to make and worth keeping: made once for all who wait, dropped by least recent use, and
never dropped while in use. For one event loop; nothing here knows what is kept.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from core.errors import Unavailable

WAIT_S = 30.0  # for room, while everything kept is in use

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@dataclass(eq=False)
class _Entry(Generic[Value]):
    making: asyncio.Task[Value]
    users: int = 0


class Shared(Generic[Key, Value]):
    """At most `limit` values at once. `drop` gives one's memory back."""

    def __init__(self, name: str, limit: int, drop: Callable[[Key, Value], Awaitable[None]]) -> None:
        self._name = name
        self._limit = limit
        self._drop = drop
        self._entries: OrderedDict[Key, _Entry[Value]] = OrderedDict()  # least recently used first
        self._dropping = 0  # out of the entries, but still in memory
        self._freed = asyncio.Event()

    def values(self) -> list[Value]:
        """Those that are made."""
        tasks = [entry.making for entry in self._entries.values()]
        return [task.result() for task in tasks if task.done() and not task.cancelled() and not task.exception()]

    @asynccontextmanager
    async def use(self, key: Key, make: Callable[[], Awaitable[Value]]) -> AsyncGenerator[Value]:
        """The value for `key`, made by `make` if it is not there; kept at least until the block ends.

        Raises what `make` raises, for all who waited, and Unavailable when there is no room for long.
        """
        entry = await self._entry(key, make)
        try:
            # A waiter that goes away must not take the value from the others
            yield await asyncio.shield(entry.making)
        finally:
            entry.users -= 1
            failed = entry.making.done() and (entry.making.cancelled() or entry.making.exception() is not None)
            if failed and self._entries.get(key) is entry:
                del self._entries[key]
            if not entry.users:
                self._freed.set()

    async def _entry(self, key: Key, make: Callable[[], Awaitable[Value]]) -> _Entry[Value]:
        deadline = asyncio.get_running_loop().time() + WAIT_S
        while True:
            entry = self._entries.get(key)
            if entry is None and len(self._entries) + self._dropping < self._limit:
                entry = _Entry(asyncio.ensure_future(make()))
                self._entries[key] = entry
            if entry is not None:
                self._entries.move_to_end(key)
                entry.users += 1
                return entry
            if not await self._drop_least_recent():
                await self._wait_for_room(deadline)

    async def _drop_least_recent(self) -> bool:
        idle = next((key for key, entry in self._entries.items() if not entry.users and entry.making.done()), None)
        if idle is None:
            return False
        entry = self._entries.pop(idle)
        if entry.making.cancelled() or entry.making.exception() is not None:
            return True
        self._dropping += 1
        try:
            await self._drop(idle, entry.making.result())
        finally:
            self._dropping -= 1
            self._freed.set()
        return True

    async def _wait_for_room(self, deadline: float) -> None:
        self._freed.clear()
        try:
            async with asyncio.timeout_at(deadline):
                await self._freed.wait()
        except TimeoutError:
            raise Unavailable(
                f"all {self._limit} {self._name} that this server holds at once are in use", retry_after_s=5.0
            ) from None

    async def clear(self) -> None:
        """Drop everything that is not in use."""
        while await self._drop_least_recent():
            pass
