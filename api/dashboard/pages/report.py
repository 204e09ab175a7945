"""The doctor's report of a file: asked for with a base model and a validation file, followed, and shown."""

from __future__ import annotations

from fastapi import Request
from nicegui import ui

from api.dashboard.blocks import button, card, empty, refusals_in, tag, text
from api.dashboard.doctor.file_frame import REPORT, TRAINING, file_frame, file_of
from api.dashboard.doctor.long_task import LongTask, newest
from api.dashboard.doctor.report_view import show_report
from api.dashboard.doctor.shared_fields import model_field, validation_field
from api.dashboard.fields import choice_field
from api.dashboard.rest import Json
from api.dashboard.visit import Visit, visit_of

METHODS = (("supervised", "Supervised"), ("dpo", "Preferences (DPO)"))


@ui.page("/data/{file_id}/report", response_timeout=30)
async def report_page(request: Request, file_id: str, validation_file: str = "") -> None:
    """`validation_file`: an id, to begin with."""
    visit = visit_of(request)
    file = await file_of(visit, file_id)
    if file is None:
        return
    with file_frame(visit, file, REPORT):
        place = tag("div", "stack wide-gap")
        with place, refusals_in(place):
            bases = (await visit.rest.get("/v1/attune/base_models"))["data"]
            files = await visit.rest.every("/v1/files", most=200, purpose=TRAINING)
            ReportPage(visit, file, bases, files, await newest(visit, "reports", file["id"]), validation_file)


class ReportPage:
    def __init__(
        self, visit: Visit, file: Json, bases: list[Json], files: list[Json], last: Json | None, validation: str
    ) -> None:
        self._visit = visit
        self._file = file
        asked: Json = last["request"] if last is not None else {}
        if visit.may("write"):
            with card(), tag("details", "fold") as fold:
                text("summary", "Check it again, also for another model" if asked else "Check this file")
                if not asked or validation:
                    fold.props["open"] = True  # what is asked for first; later the verdict comes first
                with tag("div", "stack folded"):
                    with tag("div", "form-row"):
                        self._model = model_field(bases, asked.get("model") or "")
                        chosen = validation or asked.get("validation_file_id") or ""
                        self._validation = validation_field(files, file["id"], chosen)
                        self._method = choice_field("Trained by", METHODS, value=asked.get("method", "supervised"))
                    with tag("div", "row"):
                        button("Check the file", self._check, kind="primary", icon="fact_check")
        self._report = tag("div", "stack wide-gap").props('aria-live="polite"')
        self._task = LongTask(visit, "reports", self._report, self._show)
        if last is not None:
            self._task.follow(last)
            return
        with self._report:
            words = "The doctor finds everything at once: form, turns, length, repeats, personal data and more."
            empty("Not checked yet", words if visit.may("write") else f"{words} A key that may write asks for it.")

    async def _check(self) -> None:
        body: Json = {"file_id": self._file["id"], "method": self._method.value}
        if self._model.value:
            body["model"] = self._model.value
        if self._validation.value:
            body["validation_file_id"] = self._validation.value
        await self._task.run(body)

    def _show(self, task: Json) -> None:
        show_report(task, may_write=self._visit.may("write"))
