"""Choosing data: the sample that ships, a file to upload, or one that is there; and what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from api.dashboard.blocks import button, notice, refusals_in, root, skeleton, tag, text
from api.dashboard.draft import Draft
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
                field = tag("input").props('type="file" accept=".jsonl,application/jsonl" data-upload')
                field.props["data-url"] = f"{root()}/files"
                field.on("upload-began", lambda: self._busy("Uploading …"))
                field.on("upload-ended", self._uploaded, js_handler="(e) => emit(e.detail)")
                text("span", "Drop a file, or choose one", "strong")
                text("span", "JSONL, one example a line", "quiet small")
            with tag("div", "stack tight"):
                button("Use the sample data", self._take_sample, icon="auto_awesome")
                text("span", "600 customer messages, each to become a ticket in JSON.", "quiet small")
                button("Choose from your files", self._list_files, kind="text")
        self._verdict = tag("div", "stack").props('aria-live="polite"')
        if draft.training_file is not None:
            with self._verdict:
                notice("The files of the earlier job are chosen.", "good")

    def _busy(self, words: str) -> None:
        self._verdict.clear()
        with self._verdict:
            text("p", words, "quiet")
            skeleton(2)

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
        self._choose(answer)

    async def _list_files(self) -> None:
        self._busy("Looking …")
        with refusals_in(self._verdict):
            files = await self._visit.rest.every("/v1/files", most=MOST_FILES, purpose="fine-tune")
            self._verdict.clear()
            with self._verdict:
                if not files:
                    notice("There are no files yet: drop one above, or use the sample data.")
                    return
                with tag("div", "columns"):
                    self._select("Training file", files, self._chosen)
                    self._select("Validation file (optional)", files, self._validating)

    def _select(self, label: str, files: list[Json], on_choice: Callable[[str], Any]) -> None:
        with tag("div", "field"):
            name = "file-" + label.split()[0].lower()
            text("label", label).props(f'for="{name}"')
            with tag("select").props(f'id="{name}"') as choice:
                text("option", "").props('value=""')
                for file in files:
                    examples = file["attune"]["examples"]
                    text("option", f"{file['filename']} ({examples} examples)").props["value"] = file["id"]

            async def choose(event: Any) -> None:
                await on_choice(str(event.args))

            choice.on("change", choose, js_handler="(e) => emit(e.target.value)")

    async def _chosen(self, file_id: str) -> None:
        if file_id:
            with refusals_in(self._verdict):
                self._choose(await self._visit.rest.get(f"/v1/files/{in_path(file_id)}"))

    async def _validating(self, file_id: str) -> None:
        self._draft.validation_file = file_id or None
        self._on_change()

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


def _verdict(training: Json, validation: Json | None) -> None:
    findings: list[Json] = training["attune"]["findings"] or []
    examples = training["attune"]["examples"] or 0
    words = f"{training['filename']}: {examples} examples"
    if validation is not None:
        words += f", and {validation['attune']['examples']} to validate with"
    if training["status"] != "processed":
        notice(f"{training['filename']} cannot be trained on yet: mend these lines and upload it again.", "error")
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
