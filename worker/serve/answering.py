"""One request on its way through the scheduler, as the event loop sees it; and what happens when its client goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.types import Receive

from worker.serve.scheduler import Scheduler, Ticket

if TYPE_CHECKING:
    from worker.engine.generate import Delta, Generation, Generator

Result = TypeVar("Result")


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


async def deltas(scheduler: Scheduler, generator: Generator, generation: Generation) -> AsyncGenerator[Delta]:
    """Generate, and yield what each step adds. Closing the iterator ends the generation before its next step."""
    loop = asyncio.get_running_loop()
    steps: asyncio.Queue[list[Delta] | BaseException] = asyncio.Queue()
    ticket = Ticket(generator, generation, lambda step: loop.call_soon_threadsafe(steps.put_nowait, step) and None)
    scheduler.submit(ticket)
    unfinished = generation.sampling.n
    try:
        while unfinished:
            step = await steps.get()
            if isinstance(step, BaseException):
                raise step
            for delta in step:
                unfinished -= delta.finish_reason is not None
                yield delta
    finally:
        ticket.cancel(ClientGone())
        # The model may only be given back when no step touches it any more
        await asyncio.shield(asyncio.wrap_future(ticket.ended))


async def while_connected(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """Do `work` until its client goes away; then cancel it and raise ClientGone."""
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        for task in (watching, working):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
