"""One of the doctor's tasks, started and followed: how far it is, what came of it, or why not.

The task runs in the service: whoever leaves the page and comes back finds it where it is, or its result.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from nicegui import background_tasks, ui

from api.dashboard.blocks import notice, refusals_in, tag, text
from api.dashboard.doctor.words import STAGES
from api.dashboard.rest import Json, in_path
from api.dashboard.visit import Visit

ASK_S = 0.4  # between two looks at a task that is not over
OVER = ("succeeded", "failed")


async def newest(visit: Visit, route: str, file_id: str) -> Json | None:
    """The last one of a file, whatever came of it."""
    page = await visit.rest.get(f"/v1/attune/{route}", file_id=file_id, limit=1)
    return page["data"][0] if page["data"] else None


class LongTask:
    """`route`: conversions, reports, repairs or splits. `show` draws a succeeded task in `place`."""

    def __init__(self, visit: Visit, route: str, place: ui.element, show: Callable[[Json], None]) -> None:
        self._visit = visit
        self._path = f"/v1/attune/{route}"
        self._place = place
        self._show = show
        self._asked = 0

    async def run(self, body: Json) -> None:
        """Start one and stay until it is over."""
        self._asked += 1
        self._begin()
        with refusals_in(self._place):
            await self._until_over(await self._visit.rest.post(self._path, body), self._asked)

    def follow(self, task: Json) -> None:
        """Take up one that was started before."""
        self._asked += 1
        background_tasks.create(self._follow(task, self._asked), name=f"follow {task['id']}")

    def forget(self) -> None:
        """Show nothing, whatever is under way."""
        self._asked += 1
        self._place.clear()

    async def _follow(self, task: Json, number: int) -> None:
        with self._place, refusals_in(self._place):
            await self._until_over(task, number)

    async def _until_over(self, task: Json, number: int) -> None:
        """Only the one that was asked for last is drawn."""
        bar = self._begin()
        while number == self._asked and not self._place.is_deleted:
            if task["status"] in OVER:
                self._draw_result(task)
                return
            bar.show(task["progress"])
            await asyncio.sleep(ASK_S)
            task = await self._visit.rest.get(f"{self._path}/{in_path(task['id'])}")

    def _begin(self) -> _Bar:
        self._place.clear()
        with self._place:
            return _Bar()

    def _draw_result(self, task: Json) -> None:
        self._place.clear()
        with self._place:
            if task["error"] is not None:
                notice(task["error"]["message"], "error")
            else:
                self._show(task)


class _Bar:
    def __init__(self) -> None:
        with tag("div", "stack tight"):
            self._words = text("p", f"{STAGES['waiting']} …", "quiet")
            with tag("div", "progress").props('role="progressbar" aria-valuemin="0" aria-valuemax="100"') as self._bar:
                self._bar.props["aria-label"] = "Progress"
                self._done = tag("div")

    def show(self, progress: Json) -> None:
        percent = round(100 * progress["share"])
        self._words.text = f"{STAGES.get(progress['stage'], progress['stage'])} … {percent} %"
        self._bar.props["aria-valuenow"] = percent
        self._bar.update()
        self._done.style(f"width: {percent}%")
