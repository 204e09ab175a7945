"""Choosing data: the sample that ships, a file to upload, or one that is there; and what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from nicegui import ui

from api.dashboard.blocks import button, link, notice, refusals_in, root, skeleton, tag, text
from api.dashboard.doctor.conversion import Conversion
from api.dashboard.doctor.file_frame import TRAINING, is_foreign
from api.dashboard.doctor.opinion import Opinion
from api.dashboard.doctor.words import counted
from api.dashboard.draft import Draft
from api.dashboard.fields import choice_field
from api.dashboard.rest import Json, in_path
from api.dashboard.visit import Visit

SAMPLE_TRAINING, SAMPLE_VALIDATION = 600, 60  # examples
SAMPLE_PROMPTS = 2
MOST_FILES = 200
MOST_FINDINGS = 8
SAMPLE_NAME = "sample-tickets"


class DataChoice:
    def __init__(self, visit: Visit, draft: Draft, on_change: Callable[[], None]) -> None:
        self._visit = visit
        self._draft = draft
        self._on_change = on_change
        with tag("div", "data-ways"):
            with tag("label", "drop"):
                field = tag("input").props('type="file" data-upload')
                field.props["data-url"] = f"{root()}/files"
                field.on("upload-began", lambda: self._busy("Uploading …"))
                field.on("upload-ended", self._uploaded, js_handler="(e) => emit(e.detail)")
                text("span", "Drop a file, or choose one", "strong")
                text("span", "JSONL, CSV, Excel, Parquet, JSON or text", "quiet small")
            with tag("div", "stack tight"):
                button("Use the sample data", self._take_sample, icon="auto_awesome")
                text("span", "600 customer messages, each to become a ticket in JSON.", "quiet small")
                button("Choose from your files", self._list_files, kind="text")
        self._lists = tag("div", "stack")
        self._verdict = tag("div", "stack").props('aria-live="polite"')
        self._opinion = Opinion(visit, draft)
        if draft.training_file is not None:
            self._busy("Opening the chosen files …")
            ui.timer(0, self._reopen, once=True)

    def judge(self) -> None:
        """Have the doctor look at what is chosen, if that is not what it looked at."""
        self._opinion.ask()

    def _busy(self, words: str) -> None:
        self._verdict.clear()
        with self._verdict:
            text("p", words, "quiet")
            skeleton(2)

    async def _reopen(self) -> None:
        """What the page was opened with: the files of an earlier job, or of the doctor's pages."""
        with refusals_in(self._verdict):
            chosen = (self._draft.training_file, self._draft.validation_file)
            files = [None if one is None else await self._visit.rest.get(f"/v1/files/{in_path(one)}") for one in chosen]
            if files[0] is not None:
                self._choose(files[0], files[1])

    async def _take_sample(self) -> None:
        self._busy("Making the sample's files …")
        rest = self._visit.rest
        with refusals_in(self._verdict):
            made: dict[str, Json] = {}
            for part, examples in (("training", SAMPLE_TRAINING), ("validation", SAMPLE_VALIDATION)):
                lines = await rest.text(f"/v1/attune/sample_data/{part}", examples=examples)
                if part == "validation" and not self._draft.prompts:
                    examples_of = [json.loads(line) for line in lines.splitlines()[:SAMPLE_PROMPTS]]
                    self._draft.prompts = [one["messages"][0]["content"] for one in examples_of]
                made[part] = await rest.upload(f"{SAMPLE_NAME}-{part}.jsonl", lines.encode(), "fine-tune")
            self._choose(made["training"], made["validation"])

    async def _uploaded(self, event: Any) -> None:
        answer: Json = event.args
        if "error" in answer:
            self._verdict.clear()
            with self._verdict:
                notice(str(answer["error"]["message"]), "error")
            return
        await self._take(answer)

    async def _take(self, file: Json) -> None:
        """A file that is of another form is converted first, here."""
        if not is_foreign(file):
            self._choose(file)
            return
        self._draft.training_file = self._draft.validation_file = None
        self._verdict.clear()
        with self._verdict:
            text("h3", file["filename"])
            Conversion(self._visit, file, self._made)
        self._on_change()

    async def _made(self, file: Json) -> None:
        self._choose(file)

    async def _list_files(self) -> None:
        with refusals_in(self._lists):
            files = await self._visit.rest.every("/v1/files", most=MOST_FILES, purpose=TRAINING)
            self._lists.clear()
            with self._lists:
                if not files:
                    notice("There are no files yet: drop one above, or use the sample data.")
                    return
                options = [("", ""), *((file["id"], f"{file['filename']} ({_examples(file)})") for file in files)]
                with tag("div", "columns"):
                    training = choice_field("Training file", options, value=self._draft.training_file or "")
                    validation = choice_field("Validation file (optional)", options)
                for field in (training, validation):
                    field.control.on("change", lambda: self._chosen(training.value, validation.value))

    async def _chosen(self, training_id: str, validation_id: str) -> None:
        if training_id:
            with refusals_in(self._verdict):
                training, validation = [
                    await self._visit.rest.get(f"/v1/files/{in_path(one)}") if one else None
                    for one in (training_id, validation_id)
                ]
                if training is not None:
                    self._choose(training, validation)

    def _choose(self, training: Json, validation: Json | None = None) -> None:
        is_usable = training["status"] == "processed"
        self._draft.training_file = training["id"] if is_usable else None
        self._draft.validation_file = validation["id"] if validation is not None else None
        if not self._draft.name and training["filename"].startswith(SAMPLE_NAME):
            self._draft.name = "tickets"
        self._verdict.clear()
        with self._verdict:
            _verdict(training, validation)
        self._on_change()


def _examples(file: Json) -> str:
    return counted(file["attune"]["examples"] or 0, "example", "examples")


def _verdict(training: Json, validation: Json | None) -> None:
    findings: list[Json] = training["attune"]["findings"] or []
    words = f"{training['filename']}: {_examples(training)}"
    if validation is not None:
        words += f", and {validation['attune']['examples']} to validate with"
    if training["status"] != "processed":
        notice(f"{training['filename']} cannot be trained on yet: repair it, or mend these lines.", "error")
        with tag("div", "row"):
            link(f"/data/{training['id']}/repair", "button plain", label="Repair it")
            link(f"/data/{training['id']}/report", "button plain", label="Check it")
    elif findings:
        notice(f"{words}. It can be trained on; look at what was found.", "warning")
    else:
        notice(f"{words}. Every line is well-formed.", "good")
    if findings:
        with tag("ul", "findings"):
            for finding in findings[:MOST_FINDINGS]:
                where = "" if finding["line"] is None else f"Line {finding['line']}: "
                text("li", f"{where}{finding['message']}")
            if len(findings) > MOST_FINDINGS:
                text("li", f"and {len(findings) - MOST_FINDINGS} more", "quiet")
