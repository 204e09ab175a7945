"""A file split by seed into a training file and a validation file."""

from __future__ import annotations

from urllib.parse import urlencode

from fastapi import Request
from nicegui import ui

from api.dashboard.blocks import button, card, empty, link, notice, refusals_in, tag, text
from api.dashboard.doctor.file_frame import SPLIT, file_frame, file_of
from api.dashboard.doctor.long_task import LongTask, newest
from api.dashboard.doctor.words import counted
from api.dashboard.fields import choice_field, text_field
from api.dashboard.rest import Json
from api.dashboard.visit import Visit, visit_of

SHARES = (("0.05", "5 %"), ("0.1", "10 %"), ("0.2", "20 %"), ("0.3", "30 %"))
MOST_SEED = 2_147_483_647


@ui.page("/data/{file_id}/split", response_timeout=30)
async def split_page(request: Request, file_id: str) -> None:
    visit = visit_of(request)
    file = await file_of(visit, file_id)
    if file is None:
        return
    with file_frame(visit, file, SPLIT):
        if not visit.may("write"):
            empty("This key cannot split", "Ask an admin of the project for a key with the scope “write”.")
            return
        place = tag("div", "stack wide-gap")
        with place, refusals_in(place):
            SplitPage(visit, file, await newest(visit, "splits", file_id))


class SplitPage:
    """`last`: the file's last split, shown again."""

    def __init__(self, visit: Visit, file: Json, last: Json | None) -> None:
        self._file = file
        with card("Keep some examples back to validate with"):
            text("p", "A job measures itself on examples that it was not trained on.", "quiet")
            with tag("div", "form-row"):
                self._share = choice_field("For validation", SHARES, value="0.1", help="The share that is kept back.")
                same = "The same share and seed give the same files."
                self._seed = text_field("Seed", value="42", help=same, attributes='inputmode="numeric"')
            with tag("div", "row"):
                button("Split the file", self._split, kind="primary", icon="call_split")
        self._outcome = tag("div", "stack wide-gap").props('aria-live="polite"')
        self._task = LongTask(visit, "splits", self._outcome, _show)
        if last is not None:
            self._task.follow(last)

    async def _split(self) -> None:
        typed = self._seed.value.strip()
        if not typed.isdecimal() or int(typed) > MOST_SEED:
            self._outcome.clear()
            with self._outcome:
                notice(f"A seed is a whole number from 0 to {MOST_SEED:,}.", "warning")
            return
        share = float(self._share.value)
        await self._task.run({"file_id": self._file["id"], "validation_share": share, "seed": int(typed)})


def _show(task: Json) -> None:
    request, result = task["request"], task["result"]
    training, validation = result["training_examples"], result["validation_examples"]
    with card():
        notice(f"Split by seed {request['seed']}: equal examples stay on one side.", "good")
        with tag("div", "columns"):
            for label, name, count in (
                ("Training", "training_file_id", training),
                ("Validation", "validation_file_id", validation),
            ):
                with link(f"/data/{result[name]}", "list-row made"):
                    text("span", label, "strong")
                    text("span", counted(count, "example", "examples"), "quiet number")
        query = urlencode(
            {"training_file": result["training_file_id"], "validation_file": result["validation_file_id"]}
        )
        with tag("div", "row"):
            link(f"/new?{query}", "button primary", label="Train with these")
            report = urlencode({"validation_file": result["validation_file_id"]})
            link(f"/data/{result['training_file_id']}/report?{report}", "button plain", label="Check the training file")
