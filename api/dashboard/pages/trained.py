"""What is trained: one example after the other, rendered for a base model by the code that trains and serves."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from fastapi import Request
from nicegui import ui

from api.dashboard.blocks import button, card, enable, notice, refusals_in, skeleton, tag, text
from api.dashboard.doctor.example_view import show_example
from api.dashboard.doctor.file_frame import TRAINED, file_frame, file_of
from api.dashboard.doctor.report_view import sentence
from api.dashboard.doctor.shared_fields import model_field
from api.dashboard.doctor.token_view import legend, show_sequence
from api.dashboard.fields import text_field
from api.dashboard.rest import Json, in_path
from api.dashboard.visit import Visit, visit_of

MOST_LINE = 1_000_000_000


@ui.page("/data/{file_id}/trained", response_timeout=30)
async def trained_page(request: Request, file_id: str, line: int = 1, model: str = "") -> None:
    visit = visit_of(request)
    file = await file_of(visit, file_id)
    if file is None:
        return
    with file_frame(visit, file, TRAINED):
        place = tag("div", "stack wide-gap")
        with place, refusals_in(place):
            bases = (await visit.rest.get("/v1/attune/base_models"))["data"]
            page = TrainedPage(visit, file, bases, min(max(1, line), MOST_LINE), model)
            ui.timer(0, page.look, once=True)


class TrainedPage:
    def __init__(self, visit: Visit, file: Json, bases: list[Json], line: int, model: str) -> None:
        self._visit = visit
        self._file = file
        self._line = line
        with card():
            with tag("div", "form-row"):
                self._model = model_field(bases, model)
                self._model.control.on("change", self.look)
                self._number = text_field("Line", value=str(line), attributes='inputmode="numeric"')
                self._number.control.on("change", self._go, js_handler="(e) => emit(e.target.value)")
                with tag("div", "row"):
                    self._before = button("Previous", self._previous, icon="chevron_left")
                    self._after = button("Next", self._next, icon="chevron_right")
            legend()
        self._place = tag("div", "stack wide-gap").props('aria-live="polite"')
        with self._place:
            skeleton(6)

    async def _previous(self) -> None:
        self._line -= 1
        await self.look()

    async def _next(self) -> None:
        self._line += 1
        await self.look()

    async def _go(self, event: Any) -> None:
        typed = str(event.args).strip()
        if not typed.isdecimal() or not 1 <= int(typed) <= MOST_LINE:
            self._place.clear()
            with self._place:
                notice("A line is a whole number, 1 or more.", "warning")
            return
        self._line = int(typed)
        await self.look()

    async def look(self) -> None:
        path = f"/v1/attune/files/{in_path(self._file['id'])}/examples"
        model = self._model.value or None
        with refusals_in(self._place):
            page = await self._visit.rest.get(path, line=self._line, limit=1, model=model)
            self._place.clear()
            with self._place:
                self._show(page["data"])
            self._tell_where(model)
            enable(self._before, self._line > 1)
            enable(self._after, page["has_more"])

    def _tell_where(self, model: str | None) -> None:
        """The field says the line that is shown, and so does the address, which can be kept, sent and reloaded."""
        self._number.value = str(self._line)
        query = urlencode({"line": self._line, **({"model": model} if model else {})})
        field = self._number.control.props["id"]
        ui.run_javascript(
            f"document.getElementById('{field}').value = '{self._line}';"
            f"history.replaceState(history.state, '', '?{query}')"
        )

    def _show(self, data: list[Json]) -> None:
        if not data:
            notice(f"The file has no line {self._line:,}.", "warning")
            return
        example = data[0]
        for finding in example["findings"]:
            kind = (
                "error" if finding["severity"] == "error" else "warning" if finding["severity"] == "warning" else "hint"
            )
            notice(sentence(finding["message"]), kind)
        if example["sequences"] is not None:
            with card(f"Line {example['line']:,}, as it is trained"):
                for sequence in example["sequences"]:
                    show_sequence(sequence)
        if example["example"] is not None:
            with card(f"Line {example['line']:,}, as it is read"), tag("div", "stack tight"):
                show_example(example["example"])
        elif not example["findings"]:
            text("p", "There is nothing on this line.", "quiet")
