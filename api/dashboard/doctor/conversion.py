"""From a file people have to one that is trained on: what it was recognised as, columns to choose, a live preview.

Every change asks for the preview anew; what it shows is what the conversion will make.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from nicegui import background_tasks

from api.dashboard.blocks import button, notice, refusals_in, skeleton, tag, text
from api.dashboard.doctor.example_view import show_example
from api.dashboard.doctor.long_task import LongTask
from api.dashboard.doctor.words import DELIMITERS, FORMATS, PARTS, SHAPES, WITH_SYSTEM_TEXT, counted
from api.dashboard.fields import choice_field
from api.dashboard.rest import Json, Refused, in_path
from api.dashboard.visit import Visit

ROWS = 5  # of the preview
MOST_FINDINGS = 10
SAMPLE_CHARACTERS = 60
FOUND_OUT = "Found out"
ENCODINGS = ("utf-8", "utf-16", "cp1252", "latin-1")


class Conversion:
    """`on_made`: gets the new file, below what was found while making it."""

    def __init__(self, visit: Visit, file: Json, on_made: Callable[[Json], Awaitable[None]]) -> None:
        self._visit = visit
        self._file = file
        self._on_made = on_made
        self._asked = 0
        self._reading: Json = {}  # how to read the file, where it was not left to be found out
        self._shape: str | None = None
        self._columns: dict[str, str] = {}
        self._system_text = ""
        self._preview: Json = {}
        self._verdict = tag("div", "stack").props('aria-live="polite"')
        self._form = tag("div", "stack wide-gap")
        self._rows = tag("div", "stack wide-gap")
        with tag("div", "row") as self._doing:
            self._make = button("Make the training file", self._convert, kind="primary", icon="output")
        self._doing.set_visibility(False)
        self._outcome = tag("div", "stack").props('aria-live="polite"')
        self._task = LongTask(visit, "conversions", self._outcome, self._show_outcome)
        with self._verdict:
            skeleton(3)
        background_tasks.create(self._look(is_new=True), name=f"preview {file['id']}")

    def _body(self) -> Json:
        body: Json = {"file_id": self._file["id"], **self._reading}
        if self._shape is not None and self._is_mapped():
            mapping: Json = {"shape": self._shape, "columns": dict(self._columns)}
            if self._system_text.strip() and self._shape in WITH_SYSTEM_TEXT:
                mapping["system_text"] = self._system_text
            body["mapping"] = mapping
        return body

    def _is_mapped(self) -> bool:
        return self._shape is not None and not self._missing()

    def _missing(self) -> list[str]:
        parts = PARTS[self._shape] if self._shape else ()
        return [label for part, label, is_needed in parts if is_needed and part not in self._columns]

    async def _look(self, *, is_new: bool = False) -> None:
        """`is_new`: the file is read otherwise than before, and the form follows what was found."""
        self._asked += 1
        number = self._asked
        with self._verdict, refusals_in(self._verdict):
            try:
                found = await self._visit.rest.post("/v1/attune/conversions/preview", {**self._body(), "limit": ROWS})
            except Refused:
                self._show_unread()
                raise
            if number != self._asked or self._verdict.is_deleted:
                return
            self._preview = found
            if is_new and (mapping := found["mapping"]) is not None:
                self._shape, self._columns = mapping["shape"], dict(mapping["columns"])
            self._show(is_new=is_new)

    def _show(self, *, is_new: bool) -> None:
        self._verdict.clear()
        with self._verdict:
            self._show_verdict()
        if is_new:
            self._form.clear()
            with self._form:
                self._show_form()
        self._show_rows()

    def _show_verdict(self) -> None:
        found = self._preview
        words = FORMATS[found["format"]]
        if found["recognised"] and found["mapping"] is not None:
            form = SHAPES[found["mapping"]["shape"]]
            notice(f"Recognised: {words}, “{form}”. Look at the rows below; all of it can be changed.", "good")
        elif found["mapping"] is None:
            missing = self._missing()
            rest = (
                f"Still to choose: {', '.join(missing)}."
                if missing
                else "Say what a row is, and which column holds what."
            )
            notice(f"{words}, of no form that is known. {rest}", "warning")
        else:
            notice(f"{words}, mapped by you: “{SHAPES[found['mapping']['shape']]}”.", "good")
        for finding in found["findings"][:MOST_FINDINGS]:
            notice(finding["message"], "error" if finding["severity"] == "error" else "warning")

    def _show_form(self) -> None:
        with tag("div", "mapping"):
            field = choice_field("A row is", [("", "Choose …"), *SHAPES.items()], value=self._shape or "")
            field.control.on("change", self._choose_shape, js_handler="(e) => emit(e.target.value)")
            self._parts = tag("div", "mapping-parts")
            self._show_parts()
        with tag("details", "fold"):
            text("summary", "How the file is read")
            with tag("div", "settings"):
                self._show_reading(self._preview)

    def _show_unread(self) -> None:
        """A file that cannot be read so may be read otherwise: that is all there is to choose."""
        self._rows.clear()
        self._doing.set_visibility(False)
        self._form.clear()
        with self._form, tag("div", "settings"):
            self._show_reading({"format": None, "encoding": None, "delimiter": None, "sheets": None})

    def _show_parts(self) -> None:
        self._parts.clear()
        columns = [(column["name"], _column_label(column)) for column in self._preview["columns"]]
        with self._parts:
            for part, label, is_needed in PARTS[self._shape] if self._shape else ():
                nothing = "Choose a column …" if is_needed else "None"
                field = choice_field(label, [("", nothing), *columns], value=self._columns.get(part, ""))
                field.control.on("change", partial(self._choose_column, part), js_handler="(e) => emit(e.target.value)")
            if self._shape in WITH_SYSTEM_TEXT:
                self._show_system_text()

    def _show_system_text(self) -> None:
        with tag("div", "field mapping-text"):
            text("label", "Instruction before every example").props('for="system-text"')
            words = tag("textarea").props(
                'id="system-text" rows="2" placeholder="for example: Answer in one sentence."'
            )
            words.props["defaultValue"] = self._system_text
            words.on("change", self._choose_system_text, js_handler="(e) => emit(e.target.value)")
            text("span", "Optional. Goes before each row that has no system text of its own.", "help")

    def _show_reading(self, found: Json) -> None:
        """`found`: how it was read, with None for what a format has not; all None where it could not be read."""
        is_unread = found["format"] is None
        fields = [("format", "Format", list(FORMATS.items()), found["format"])]
        if is_unread or found["encoding"] is not None:
            fields.append(("encoding", "Encoding", [(one, one) for one in ENCODINGS], found["encoding"]))
        if is_unread or found["delimiter"] is not None:
            fields.append(("delimiter", "Between columns", list(DELIMITERS.items()), found["delimiter"]))
        if found["sheets"]:
            fields.append(("sheet", "Sheet", [(one, one) for one in found["sheets"]], found["sheet"]))
        for name, label, options, now in fields:
            auto = FOUND_OUT if now is None else f"{FOUND_OUT}: {dict(options).get(now, now)}"
            field = choice_field(label, [("", auto), *options], value=self._reading.get(name, ""))
            field.control.on("change", partial(self._choose_reading, name), js_handler="(e) => emit(e.target.value)")

    async def _choose_shape(self, event: Any) -> None:
        """Parts that both shapes have keep their columns."""
        self._shape = str(event.args) or None
        parts = [part for part, _, _ in PARTS[self._shape]] if self._shape else []
        self._columns = {part: column for part, column in self._columns.items() if part in parts}
        self._show_parts()
        await self._changed()

    async def _choose_column(self, part: str, event: Any) -> None:
        if event.args:
            self._columns[part] = str(event.args)
        else:
            self._columns.pop(part, None)
        await self._changed()

    async def _choose_system_text(self, event: Any) -> None:
        self._system_text = str(event.args)
        await self._changed()

    async def _choose_reading(self, name: str, event: Any) -> None:
        """Other columns may come of it, so that the mapping is found out anew."""
        if event.args:
            self._reading[name] = str(event.args)
        else:
            self._reading.pop(name, None)
        self._shape, self._columns = None, {}
        await self._look(is_new=True)

    async def _changed(self) -> None:
        """A mapping that is not whole cannot be asked about; the rows then show their cells alone."""
        if self._is_mapped():
            await self._look()
            return
        self._asked += 1
        self._preview = {**self._preview, "mapping": None, "recognised": False}
        for row in self._preview["rows"]:
            row["example"], row["findings"] = None, []
        self._show(is_new=False)

    def _show_rows(self) -> None:
        self._rows.clear()
        rows: list[Json] = self._preview["rows"]
        is_mapped = self._preview["mapping"] is not None
        self._doing.set_visibility(is_mapped)
        with self._rows:
            if not rows:
                text("p", "There is no row to show.", "quiet")
                return
            text("h3", "The first rows, as they will be trained on" if is_mapped else "The first rows")
            with tag("ol", "preview-rows"):
                for row in rows:
                    with tag("li", "preview-row"):
                        text("span", f"Row {row['row']}", "quiet small number")
                        _show_row(row)

    async def _convert(self) -> None:
        await self._task.run(self._body())

    def _show_outcome(self, task: Json) -> None:
        result = task["result"]
        words = f"{counted(result['rows'], 'row', 'rows')} gave {counted(result['examples'], 'example', 'examples')}."
        if result["skipped"]:
            words += f" {counted(result['skipped'], 'row was', 'rows were')} left out."
        notice(words, "warning" if result["skipped"] else "good")
        if result["findings"]:
            with tag("ul", "findings"):
                for finding in result["findings"][:MOST_FINDINGS]:
                    where = "" if finding["line"] is None else f"Row {finding['line']}: "
                    text("li", f"{where}{finding['message']}")
                if len(result["findings"]) > MOST_FINDINGS:
                    text("li", f"and {len(result['findings']) - MOST_FINDINGS} more", "quiet")
        background_tasks.create(self._hand_over(str(result["file_id"])), name=f"made {result['file_id']}")

    async def _hand_over(self, file_id: str) -> None:
        with self._outcome, refusals_in(self._outcome):
            await self._on_made(await self._visit.rest.get(f"/v1/files/{in_path(file_id)}"))


def _column_label(column: Json) -> str:
    sample = next((one for one in column["samples"] if one), "")
    short = sample if len(sample) <= SAMPLE_CHARACTERS else f"{sample[:SAMPLE_CHARACTERS]}…"
    return f"{column['name']} ({short})" if short else str(column["name"])


def _show_row(row: Json) -> None:
    if row["example"] is not None:
        with tag("div", "stack tight"):
            show_example(row["example"])
    else:
        with tag("div", "stack tight"):
            for name, cell in row["cells"].items():
                with tag("div", "turn"):
                    text("span", name, "quiet small break")
                    text("p", cell, "said-words")
    for finding in row["findings"]:
        text("p", finding["message"], "problem")
