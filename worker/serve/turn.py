"""The server's side of sharing a GPU with the engine: it enters the device before it loads weights, and when the
engine waits for it, it finishes what is live, frees the weights and gives the device back.

On a CPU there is nothing to share, and `enter` always succeeds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog

from core.errors import Unavailable
from worker.device import TTL_S, DeviceHold

log = structlog.get_logger()
RETRY_AFTER_S = 10.0
DRAIN_S = 20.0  # what is live when the turn ends has this long to finish
LOOK_S = 1.0


class Turn:
    """`free` gives back all weights that no request uses; `abort` ends the live requests with a reason."""

    def __init__(
        self,
        hold: DeviceHold,
        *,
        free: Callable[[], Awaitable[None]],
        abort: Callable[[BaseException], None],
        least_s: float,  # a turn lasts at least this long, so that loading is worth it
    ) -> None:
        self._hold = hold
        self._shares = not hold.held  # a CPU is held from the beginning, and by everybody
        self._free = free
        self._abort = abort
        self._least_s = least_s
        self._users = 0
        self._leaving = False
        self._taking = asyncio.Lock()
        self._taken_at = 0.0

    @asynccontextmanager
    async def enter(self) -> AsyncGenerator[None]:
        """Be on the device until the block ends. Raises Unavailable while it is another's."""
        async with self._taking:
            if self._leaving:
                raise _busy()
            if not self._hold.held:
                if not await asyncio.to_thread(self._hold.take):
                    raise _busy()
                self._taken_at = _now()
                log.info("device_taken")
            self._users += 1
        try:
            yield
        finally:
            self._users -= 1

    async def watch(self) -> None:
        """Renew the lease, and leave when another waits; runs until cancelled, where there is another."""
        renewed_at = _now()
        while self._shares:
            await asyncio.sleep(LOOK_S)
            if not self._hold.held:
                continue
            try:
                if _now() - renewed_at > TTL_S / 4 or renewed_at < self._taken_at:
                    renewed_at = _now()
                    if not await asyncio.to_thread(self._hold.renew):
                        await self._leave("the lease was lost", 0.0)
                        continue
                if _now() - self._taken_at >= self._least_s and await asyncio.to_thread(self._hold.wanted):
                    await self._leave("another waits for it", DRAIN_S)
            except Unavailable as error:
                # Nobody else can take the device while the database is away
                log.warning("device_not_watched", error=error.message)

    async def _leave(self, why: str, drain_s: float) -> None:
        async with self._taking:
            self._leaving = True
        try:
            deadline = _now() + drain_s
            while self._users:
                if _now() >= deadline:
                    self._abort(_busy())
                await asyncio.sleep(0.05)
            await self.close()
            log.info("device_left", why=why)
        finally:
            self._leaving = False

    async def close(self) -> None:
        """Free the weights, then give the device back."""
        await self._free()
        await asyncio.to_thread(self._hold.release)


def _busy() -> Unavailable:
    return Unavailable(
        "The GPU is busy with a training job; the model answers again when it is free.",
        code="device_busy",
        retry_after_s=RETRY_AFTER_S,
    )


def _now() -> float:
    return asyncio.get_running_loop().time()
