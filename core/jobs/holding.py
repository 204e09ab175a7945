"""Keep a claim alive while its holder works: a thread that beats, and the word that the claim is lost.

Used by whoever holds a claim: the worker for training and batches, the preparation child for validation.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

import structlog

from core import crash_points
from core.db import Database, Session
from core.errors import Unavailable
from core.jobs.claims import Flags

log = structlog.get_logger()
FENCE_MARGIN_S = 15.0  # at most; a holder stops this long before its lease could be given to another


class Held(Protocol):
    """A claim on a job or a batch."""

    @property
    def object_id(self) -> str: ...

    @property
    def attempt(self) -> int: ...

    def beat(self, session: Session, lease_s: float) -> Flags | None: ...


class Holding:
    """`with Holding(...) as holding:` beats every `beat_s`; `lost` is set once the lease is, or may be, gone.

    `on_lost` runs in the beating thread at that moment (kill the engine there). A holder that cannot renew
    counts itself lost before the lease ends, by its own monotonic clock.
    """

    def __init__(
        self,
        database: Database,
        claim: Held,
        *,
        lease_s: float,
        beat_s: float,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._database = database
        self._claim = claim
        self._lease_s = lease_s
        self._beat_s = beat_s
        self._on_lost = on_lost
        self._done = threading.Event()
        self._renewed_at = time.monotonic()
        self._thread = threading.Thread(target=self._beat, name="beat", daemon=True)
        self.lost = threading.Event()
        self.flags = Flags(cancel=False, pause=False, over_time=False)

    def __enter__(self) -> Holding:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.settle()

    def settle(self) -> None:
        """Stop beating, before the write that ends the claim: a beat after it would look like a lost lease."""
        self._done.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def seen(self, flags: Flags | None) -> bool:
        """Take in the answer of a fenced write; False when it says that the lease is lost."""
        if flags is None:
            self._lose("a write was refused")
            return False
        self.flags = flags
        return True

    def _beat(self) -> None:
        margin_s = min(FENCE_MARGIN_S, self._lease_s / 4)
        while not self._done.wait(min(self._beat_s, margin_s)):
            started = time.monotonic()
            if started - self._renewed_at >= self._beat_s:
                try:
                    with self._database.begin() as session:
                        flags = self._claim.beat(session, self._lease_s)
                    crash_points.here("beat.committed")
                    if not self._done.is_set() and not self.seen(flags):
                        return
                    self._renewed_at = started
                except Unavailable as error:
                    log.warning("beat_failed", held=self._claim.object_id, error=error.message)
            if time.monotonic() - self._renewed_at > self._lease_s - margin_s:
                self._lose("it could not be renewed in time")
                return

    def _lose(self, why: str) -> None:
        if not self.lost.is_set():
            log.warning("lease_lost", held=self._claim.object_id, attempt=self._claim.attempt, why=why)
            self.lost.set()
            self._on_lost()
