"""The one thread that touches models: live requests take turns of one step each, and whoever wants to change a
model (put an adapter on it, free it) is let in between two steps. No torch in here.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from core.errors import Unavailable

if TYPE_CHECKING:
    from worker.engine.generate import Delta, Generation, Generator

MAX_LIVE = 32  # requests that take turns; the rest wait, first come first served

Result = TypeVar("Result")


@dataclass(eq=False)
class Ticket:
    """A request on its way. `deliver` gets each step's deltas, or the exception that ended it; it must not block."""

    generator: Generator
    generation: Generation
    deliver: Callable[[list[Delta] | BaseException], None]
    ended: Future[None] = field(default_factory=Future)  # done when no step will touch it any more
    cancelled: BaseException | None = None

    def cancel(self, reason: BaseException) -> None:
        """End it before its next step; `deliver` gets the reason."""
        self.cancelled = reason


class Scheduler:
    """Runs from its making until `close`."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._calls: deque[Callable[[], None]] = deque()
        self._waiting: deque[Ticket] = deque()
        self._live: list[Ticket] = []
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)
        self._thread.start()

    @property
    def live(self) -> int:
        """Requests that take turns or wait for theirs."""
        with self._condition:
            return len(self._live) + len(self._waiting)

    def submit(self, ticket: Ticket) -> None:
        with self._condition:
            self._waiting.append(ticket)
            self._condition.notify()

    def call(self, work: Callable[[], Result]) -> Future[Result]:
        """Run `work` on this thread between two steps."""
        future: Future[Result] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return  # who asked has gone away; an answer to nobody would end this thread
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

        with self._condition:
            self._calls.append(run)
            self._condition.notify()
        return future

    def abort(self, generator: Generator, reason: BaseException) -> None:
        """Cancel every request on this base."""
        with self._condition:
            for ticket in (*self._waiting, *self._live):
                if ticket.generator is generator:
                    ticket.cancel(reason)

    def close(self) -> None:
        """End the thread after its current step; what was live is cancelled."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        self._thread.join()

    def _run(self) -> None:
        while self._round():
            pass
        for ticket in (*self._live, *self._waiting):
            ticket.deliver(Unavailable("the server is shutting down"))
            _say_ended(ticket)

    def _round(self) -> bool:
        """Every call that waits, and one step of every live request; False once closed.

        A method of its own, so that no local name of an idle thread keeps a request's cache in memory.
        """
        with self._condition:
            while not (self._calls or self._waiting or self._live or self._closed):
                self._condition.wait()
            if self._closed:
                return False
            calls = list(self._calls)
            self._calls.clear()
            while self._waiting and len(self._live) < MAX_LIVE:
                self._live.append(self._waiting.popleft())
            turn = list(self._live)
        for call in calls:
            call()
        for ticket in turn:
            if not self._step(ticket):
                with self._condition:
                    self._live.remove(ticket)
                _say_ended(ticket)
        return True

    def _step(self, ticket: Ticket) -> bool:
        """One step; False when the request is over."""
        if ticket.cancelled is not None:
            ticket.deliver(ticket.cancelled)
            return False
        try:
            deltas = ticket.generator.step(ticket.generation)
        except Exception as error:  # of one request, handed to it: the others go on
            ticket.deliver(error)
            return False
        if deltas:
            ticket.deliver(deltas)
        return not ticket.generation.done


def _say_ended(ticket: Ticket) -> None:
    """To whoever still waits for it."""
    with suppress(InvalidStateError):
        ticket.ended.set_result(None)
