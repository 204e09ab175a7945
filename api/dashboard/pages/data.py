"""The project's files: drop one, see what was found in it, take it back."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from fastapi import Request
from nicegui import ui

from api.dashboard.bases import short_bytes
from api.dashboard.blocks import empty, link, notice, refusals_in, root, skeleton, tag, text
from api.dashboard.doctor.file_frame import TRAINING, is_foreign, verdict_state
from api.dashboard.doctor.words import counted
from api.dashboard.fields import Choices
from api.dashboard.frame import frame
from api.dashboard.pages.jobs import when
from api.dashboard.rest import Json
from api.dashboard.visit import Visit, visit_of

MOST = 500  # newest files that are listed
PURPOSES = {
    "all": ("All", ()),
    "training": ("Training data", ("fine-tune",)),
    "results": ("Results", ("fine-tune-results", "batch_output")),
    "others": ("Others", ("user_data", "batch", "vision", "assistants", "evals")),
}


@ui.page("/data", response_timeout=30)
async def data_page(request: Request) -> None:
    visit = visit_of(request)
    with frame(visit, "Data", active="Data", wide=True):
        await FileList(visit).load()


class FileList:
    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._files: list[Json] = []
        self._wanted, self._searched = "all", ""
        if visit.may("write"):
            with tag("label", "drop"):
                field = tag("input").props('type="file" data-upload')
                field.props["data-url"] = f"{root()}/files"
                field.on("upload-began", self._began)
                field.on("upload-ended", self._ended, js_handler="(e) => emit(e.detail)")
                text("span", "Drop a file, or choose one", "strong")
                text("span", "JSONL, CSV, Excel, Parquet, JSON or text", "quiet small")
        self._verdict = tag("div", "stack").props('aria-live="polite"')
        with tag("div", "row") as self._tools:
            search = tag("input", "search").props(
                'type="search" placeholder="Search name or id" aria-label="Search files"'
            )
            search.on("input", self._search, js_handler="(e) => emit(e.target.value)")
            Choices("Show", [(name, label) for name, (label, _) in PURPOSES.items()], self._want)
        self._list = tag("div", "job-list short")
        with self._list:
            skeleton(5)

    def _want(self, name: str) -> None:
        self._wanted = name
        self._show()

    def _search(self, event: Any) -> None:
        self._searched = str(event.args).strip().lower()
        self._show()

    async def load(self) -> None:
        with refusals_in(self._list):
            self._files = await self._visit.rest.every("/v1/files", most=MOST)
            self._show()

    def _began(self) -> None:
        self._verdict.clear()
        with self._verdict:
            text("p", "Uploading …", "quiet")

    async def _ended(self, event: Any) -> None:
        answer: Json = event.args
        self._verdict.clear()
        with self._verdict:
            if "error" in answer:
                notice(str(answer["error"]["message"]), "error")
                return
            if is_foreign(answer):
                ui.navigate.to(f"/data/{answer['id']}/convert")
                return
            _verdict(answer)
        await self.load()

    def _show(self) -> None:
        purposes = PURPOSES[self._wanted][1]
        shown = [
            file
            for file in self._files
            if (not purposes or file["purpose"] in purposes)
            and self._searched in f"{file['filename']} {file['id']}".lower()
        ]
        self._tools.set_visibility(bool(self._files))
        self._list.clear()
        with self._list:
            if not self._files:
                words = "Drop a file above, or train a first model with the sample data that ships."
                empty("No data yet", words, ("Train a model", "/new") if self._visit.may("write") else None)
            elif not shown:
                empty("Nothing matches", "No file has these words and this purpose. Change the search or the filter.")
            for file in shown:
                _row(file)


def _row(file: Json) -> None:
    with link(f"/data/{file['id']}", "job-row"):
        with tag("div", "stack tight"):
            text("span", file["filename"], "strong cut")
            text("span", f"{short_bytes(file['bytes'])} · {when(file['created_at'])}", "quiet small cut")
        examples = file["attune"]["examples"]
        with tag("div", "job-progress"):
            if examples is not None:
                text("span", f"{examples:,} examples", "quiet small number")
        verdict_state(file)


def _verdict(file: Json) -> None:
    """In a sentence, where the file arrived, with what to do next."""
    name, examples, findings = file["filename"], file["attune"]["examples"], file["attune"]["findings"] or []
    path = f"/data/{file['id']}"
    if file["status"] == "error":
        notice(f"{name} cannot be trained on: {counted(len(findings), 'line is', 'lines are')} at fault.", "error")
        ways = [("Repair it", f"{path}/repair"), ("See the lines", path)]
    elif file["purpose"] != TRAINING:
        notice(f"{name} is kept as it is.", "good")
        ways = [("Open it", path)]
    else:
        found = f"{counted(len(findings), 'warning', 'warnings')}." if findings else "Every line is well-formed."
        notice(f"{name}: {counted(examples, 'example', 'examples')}. {found}", "warning" if findings else "good")
        ways = [("Check it", f"{path}/report"), ("Train with it", f"/new?{urlencode({'training_file': file['id']})}")]
    with tag("div", "row"):
        for label, way in ways:
            link(way, "button plain", label=label)
