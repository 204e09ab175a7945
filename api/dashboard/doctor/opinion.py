"""The doctor's verdict beside the data that is chosen for a job: asked for by itself, for the base that is chosen."""

from __future__ import annotations

from urllib.parse import urlencode

from nicegui import background_tasks

from api.dashboard.blocks import link, refusals_in, tag, text
from api.dashboard.doctor.long_task import LongTask, newest
from api.dashboard.doctor.report_view import repairs_for, show_verdict
from api.dashboard.draft import Draft
from api.dashboard.rest import Json
from api.dashboard.visit import Visit


class Opinion:
    def __init__(self, visit: Visit, draft: Draft) -> None:
        self._visit = visit
        self._draft = draft
        self._about: Json = {}
        self._place = tag("div", "stack tight").props('aria-live="polite"')
        self._task = LongTask(visit, "reports", self._place, self._show)

    def ask(self) -> None:
        """Nothing, where that was asked already."""
        about: Json = {
            "file_id": self._draft.training_file,
            "validation_file_id": self._draft.validation_file,
            "model": self._draft.model,
        }
        if about == self._about:
            return
        self._about = about
        if self._draft.training_file is None:
            self._task.forget()
        else:
            background_tasks.create(self._ask(about), name=f"report {self._draft.training_file}")

    async def _ask(self, about: Json) -> None:
        with self._place, refusals_in(self._place):
            last = await newest(self._visit, "reports", about["file_id"])
            if about != self._about or self._place.is_deleted:
                return
            if last is not None and all(last["request"].get(name) == value for name, value in about.items()):
                self._task.follow(last)
            else:
                await self._task.run({name: value for name, value in about.items() if value is not None})

    def _show(self, task: Json) -> None:
        text("h3", "The doctor’s verdict")
        show_verdict(task["result"])
        path = f"/data/{task['file_id']}"
        with tag("div", "row"):
            link(f"{path}/report", "small", label="The whole report")
            if wanted := repairs_for(task["result"]):
                given = {"model": task["request"].get("model"), "repairs": ",".join(wanted)}
                query = urlencode({name: value for name, value in given.items() if value})
                link(f"{path}/repair?{query}", "small", label="See the repairs")
            link(f"{path}/trained", "small", label="What is trained")
