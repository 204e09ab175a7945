"""Who a key is, remembered for half a second: a client that asks hundreds of times is not looked up hundreds of times.

A key that is revoked by this process is forgotten at once, one that another process revoked within `HELD_S`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable

from starlette.types import Message, Send

from core.access.projects import Principal

HELD_S = 0.5
RENEWED_S = 0.25  # from then on the next to ask looks it up; the others need not, as all would when it is forgotten
MOST = 10_000  # keys; then all are forgotten
_Question = tuple[bytes, str | None, str | None]  # hash of the key, project, organization


class Recent:
    """One instance a process, used from its event loop."""

    def __init__(self) -> None:
        self._known: dict[_Question, tuple[float, Principal]] = {}
        self._renewing: set[_Question] = set()
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
        if (found := self._known.get(asked)) is not None:
            age_s = time.monotonic() - found[0]
            if age_s < RENEWED_S or (age_s < HELD_S and asked in self._renewing):
                return found[1]
        changes, asked_at = self._changes, time.monotonic()
        self._renewing.add(asked)
        try:
            principal = await look_up()
        finally:
            self._renewing.discard(asked)
        if changes == self._changes:  # else it may have been revoked while it was looked up
            if len(self._known) >= MOST:
                self._known.clear()
            self._known[asked] = (asked_at, principal)
        return principal

    def forgetting(self, send: Send) -> Send:
        """`send` of a request that may change a key, a project or its limits: once it is answered, nothing is known."""

        async def forget_and_send(message: Message) -> None:
            self._changes += 1
            self._known.clear()
            await send(message)

        return forget_and_send
