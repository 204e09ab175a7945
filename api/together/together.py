"""What is asked at once is looked up at once: in one transaction, for all who came while the last looks were made.

Nobody waits for others to come, and a look that has begun answers none who asks later, so that everyone sees what
was written before they asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from anyio import to_thread

from core.access import tenancy
from core.errors import AttuneError

Asked = TypeVar("Asked")
Found = TypeVar("Found")
AT_ONCE = 2  # looks of one project: a slow one does not hold up all the others
MOST = 50  # questions of one look


@dataclass
class _Waiting(Generic[Asked, Found]):
    """Of one project."""

    futures: dict[Asked, asyncio.Future[Found]] = field(default_factory=dict)
    looks: int = 0


class Together(Generic[Asked, Found]):
    """One kind of question. Used from the event loop; `look` runs in a thread of the requests'."""

    def __init__(self, look: Callable[[str, Sequence[Asked]], Mapping[Asked, Found | Exception]]) -> None:
        """`look`: a project and what is asked of it, to the answer or the error of each."""
        self._look = look
        self._waiting: dict[tuple[str, str], _Waiting[Asked, Found]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, project_id: str, asked: Asked) -> Found:
        """The answer. Raises its error, or what kept the look from being made."""
        # The look sees the rows that its first asker may see, so that nobody is answered by another's
        group = (tenancy.current(), project_id)
        waiting = self._waiting.setdefault(group, _Waiting())
        future = waiting.futures.get(asked)
        if future is None:
            future = waiting.futures[asked] = asyncio.get_running_loop().create_future()
            if waiting.looks < AT_ONCE:
                waiting.looks += 1
                task = asyncio.create_task(self._work(group, waiting))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(future)  # others may wait for it, too

    async def _work(self, group: tuple[str, str], waiting: _Waiting[Asked, Found]) -> None:
        while waiting.futures:
            taken = {asked: waiting.futures.pop(asked) for asked in list(waiting.futures)[:MOST]}
            await self._answer(group[1], taken)
        waiting.looks -= 1
        if not waiting.looks:
            self._waiting.pop(group, None)

    async def _answer(self, project_id: str, taken: Mapping[Asked, asyncio.Future[Found]]) -> None:
        try:
            answers = await to_thread.run_sync(self._look, project_id, list(taken))
        except Exception as error:
            if len(taken) > 1 and not isinstance(error, AttuneError):
                for asked, future in taken.items():  # one of them is at fault, and the others are not to pay
                    await self._answer(project_id, {asked: future})
                return
            answers = dict.fromkeys(taken, error)
        for asked, future in taken.items():
            answer = answers[asked]
            if isinstance(answer, Exception):
                future.set_exception(answer)
                future.exception()  # it is known, should nobody be left who waits
            else:
                future.set_result(answer)
