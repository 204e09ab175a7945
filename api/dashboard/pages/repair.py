"""Repairs of a file: what each would change, some lines before and after, and then the new file."""

from __future__ import annotations

from urllib.parse import urlencode

from fastapi import Request
from nicegui import ui

from api.dashboard.blocks import button, card, empty, link, notice, refusals_in, tag, text
from api.dashboard.doctor.change_view import show_change
from api.dashboard.doctor.file_frame import REPAIR, TRAINING, file_frame, file_of
from api.dashboard.doctor.long_task import LongTask, newest
from api.dashboard.doctor.report_view import repairs_for
from api.dashboard.doctor.shared_fields import model_field, validation_field
from api.dashboard.doctor.words import REPAIRS, counted
from api.dashboard.fields import CheckGroup
from api.dashboard.rest import Json
from api.dashboard.visit import Visit, visit_of

NEED_MODEL, NEED_VALIDATION = "drop_too_long", "drop_validation_overlap"


@ui.page("/data/{file_id}/repair", response_timeout=30)
async def repair_page(
    request: Request, file_id: str, repairs: str = "", model: str = "", validation_file: str = ""
) -> None:
    """`repairs`: names with commas between, of which the page then shows at once what they would change."""
    visit = visit_of(request)
    file = await file_of(visit, file_id)
    if file is None:
        return
    with file_frame(visit, file, REPAIR):
        if not visit.may("write"):
            empty("This key cannot repair", "Ask an admin of the project for a key with the scope “write”.")
            return
        place = tag("div", "stack wide-gap")
        with place, refusals_in(place):
            bases = (await visit.rest.get("/v1/attune/base_models"))["data"]
            files = await visit.rest.every("/v1/files", most=200, purpose=TRAINING)
            report = await newest(visit, "reports", file_id)
            result = report["result"] if report is not None else None
            wanted = [name for name in repairs.split(",") if name in REPAIRS]
            suggested = wanted or (repairs_for(result) if result is not None else [])
            page = RepairPage(visit, file, suggested, result)
            page.draw(bases, files, model, validation_file)
            if wanted:
                page.look()


class RepairPage:
    """`suggested`: repairs that are chosen to begin with. `report`: the result of the file's last one."""

    def __init__(self, visit: Visit, file: Json, suggested: list[str], report: Json | None) -> None:
        self._visit = visit
        self._file = file
        self._suggested = suggested
        self._report = report

    def draw(self, bases: list[Json], files: list[Json], model: str, validation: str) -> None:
        with card("What to mend", note=self._note()):
            options = [(name, self._label(name)) for name in REPAIRS]
            first = [option for option in options if option[0] in self._suggested]
            self._groups = [CheckGroup("What was found", first, self._suggested)] if first else []
            with tag("details", "fold") as fold:
                text("summary", "All other repairs" if first else "Repairs")
                if not first:
                    fold.props["open"] = True
                with tag("div", "folded"):
                    rest = [option for option in options if option not in first]
                    self._groups.append(CheckGroup("Carried out in this order", rest, ()))
            with tag("div", "form-row"):
                self._model = model_field(bases, model)
                self._validation = validation_field(files, self._file["id"], validation)
            with tag("div", "row"):
                self._looking = button("Show what would change", self._look, kind="primary", icon="visibility")
        self._outcome = tag("div", "stack wide-gap").props('aria-live="polite"')
        self._task = LongTask(self._visit, "repairs", self._outcome, self._show)

    def look(self) -> None:
        ui.timer(0, self._look, once=True)

    def _note(self) -> str:
        if self._report is None:
            return "Check the file first to see what it needs"
        return "Chosen by the last report" if self._suggested else "The last report found nothing to mend"

    def _label(self, name: str) -> str:
        label, purpose = REPAIRS[name]
        entries = [] if self._report is None else self._report["counts"]
        found = sum(entry["count"] for entry in entries if name in entry["repairs"])
        return f"{label}: {purpose}{f' {found:,} found.' if found else ''}"

    async def _look(self) -> None:
        await self._run(dry_run=True)

    async def _mend(self) -> None:
        await self._run(dry_run=False)

    async def _run(self, *, dry_run: bool) -> None:
        chosen = [name for group in self._groups for name in group.chosen]
        problem = ""
        if not chosen:
            problem = "Choose at least one repair."
        elif NEED_MODEL in chosen and not self._model.value:
            problem = f"“{REPAIRS[NEED_MODEL][0]}” needs a base model: choose it, or leave the repair out."
        elif NEED_VALIDATION in chosen and not self._validation.value:
            problem = f"“{REPAIRS[NEED_VALIDATION][0]}” needs the validation file: choose it, or leave the repair out."
        if problem:
            self._outcome.clear()
            with self._outcome:
                notice(problem, "warning")
            return
        body: Json = {"file_id": self._file["id"], "repairs": chosen, "dry_run": dry_run}
        if self._model.value:
            body["model"] = self._model.value
        if self._validation.value:
            body["validation_file_id"] = self._validation.value
        await self._task.run(body)

    def _show(self, task: Json) -> None:
        result = task["result"]
        with card():
            if result["file_id"] is not None:
                _show_made(result)
            else:
                notice(_sum(result, "would be"), "hint" if result["changed"] or result["dropped"] else "good")
                if result["lines_after"] and (result["changed"] or result["dropped"]):
                    with tag("div", "row"):
                        button("Make the repaired file", self._mend, kind="primary", icon="build")
                        text("span", "A new file is made; this one stays as it is.", "quiet small")
        for one in result["repairs"]:
            _show_repair(one)


def _sum(result: Json, verb: str) -> str:
    if not result["changed"] and not result["dropped"]:
        return "These repairs change nothing in this file."
    return (
        f"Of {counted(result['lines'], 'line', 'lines')}, {result['changed']:,} {verb} changed and "
        f"{result['dropped']:,} {verb} removed; {counted(result['lines_after'], 'line', 'lines')} stay."
    )


def _show_made(result: Json) -> None:
    notice(f"The repaired file is made. {_sum(result, 'were')}", "good")
    new = result["file_id"]
    with tag("div", "row"):
        link(f"/new?{urlencode({'training_file': new})}", "button primary", label="Train with it")
        link(f"/data/{new}/report", "button plain", label="Check the new file")
        link(f"/data/{new}/split", "button plain", label="Split it")


def _show_repair(one: Json) -> None:
    label = REPAIRS[one["repair"]][0]
    note = f"{one['changed']:,} changed, {one['dropped']:,} removed"
    with card(label, note=note):
        if not one["samples"]:
            text("p", "Nothing of this kind is in the file.", "quiet")
        for sample in one["samples"]:
            with tag("div", "before-after"):
                text("span", f"Line {sample['line']:,}", "quiet small number")
                show_change(sample["before"], sample["after"])
