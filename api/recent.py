"""Who a key is, remembered for half a second: a client that asks hundreds of times is not looked up hundreds of times.

A key that is revoked by this process is forgotten at once, one that another process revoked within `HELD_S`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable

from starlette.types import Message, Send

from core.projects import Principal

HELD_S = 0.5
MOST = 10_000  # keys; then all are forgotten


class Recent:
    """One instance a process, used from its event loop."""

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, str | None, str | None], tuple[float, Principal]] = {}
        self._changes = 0

    async def find(
        self,
        key: str,
        project: str | None,
        organization: str | None,
        look_up: Callable[[], Awaitable[Principal]],
    ) -> Principal:
        """Whose key it is, with the headers that came with it. Raises what `look_up` raises."""
        asked = (hashlib.sha256(key.encode()).digest(), project, organization)
        found = self._known.get(asked)
        if found is not None and time.monotonic() < found[0]:
            return found[1]
        changes = self._changes
        principal = await look_up()
        if changes == self._changes:  # else it may have been revoked while it was looked up
            if len(self._known) >= MOST:
                self._known.clear()
            self._known[asked] = (time.monotonic() + HELD_S, principal)
        return principal

    def forgetting(self, send: Send) -> Send:
        """`send` of a request that may change a key, a project or its limits: once it is answered, nothing is known."""

        async def forget_and_send(message: Message) -> None:
            self._changes += 1
            self._known.clear()
            await send(message)

        return forget_and_send
