"""One file: what was found in it, its first examples as the conversations that they are, its hash."""

from __future__ import annotations

import json

from fastapi import Request
from nicegui import ui

from api.dashboard.bases import short_bytes
from api.dashboard.blocks import button, card, copyable, facts, link, notice, tag, text
from api.dashboard.dialogs import confirm
from api.dashboard.frame import frame
from api.dashboard.pages.data import verdict_state
from api.dashboard.pages.jobs import when
from api.dashboard.rest import Json, Refused, in_path
from api.dashboard.visit import Visit, visit_of

PREVIEW_BYTES = 64 * 1024
FIRST_SHOWN = 5
MOST_CHARACTERS = 2000  # of a message in the preview


@ui.page("/data/{file_id}", response_timeout=30)
async def file_page(request: Request, file_id: str) -> None:
    visit = visit_of(request)
    path = f"/v1/files/{in_path(file_id)}"
    try:
        file = await visit.rest.get(path)
        beginning = await visit.rest.beginning(f"{path}/content", PREVIEW_BYTES)
    except Refused as refused:
        with frame(visit, "File", active="Data"):
            notice(refused.message, "error")
            link("/data", "button plain", label="All files")
        return
    with frame(visit, file["filename"], active="Data", wide=True) as head:
        with head:
            verdict_state(file)
            _actions(visit, file)
        with card():
            rows = [("Size", short_bytes(file["bytes"])), ("Uploaded", when(file["created_at"]))]
            if file["attune"]["examples"] is not None:
                rows.append(("Examples", f"{file['attune']['examples']:,}"))
            facts([*rows, ("Purpose", file["purpose"]), ("Id", file["id"])])
            with tag("details", "fold"):
                text("summary", "Hash")
                with tag("div", "wrapped"):
                    copyable(file["attune"]["sha256"], "sha256 of the file")
        _findings(file["attune"]["findings"] or [])
        _preview(file, beginning)


def _actions(visit: Visit, file: Json) -> None:
    download = link(f"/download/files/{file['id']}", "button plain", label="Download")
    download.props["download"] = True
    if visit.may("write"):

        async def delete() -> None:
            await visit.rest.delete(f"/v1/files/{in_path(file['id'])}")
            ui.navigate.to("/data")

        words = "It is removed for good. A file that an unfinished job reads is kept until that job is over."
        button("Delete", lambda: confirm("Delete this file?", words, "Delete the file", delete), kind="danger")


def _findings(findings: list[Json]) -> None:
    if not findings:
        return
    with card("What was found", note=f"{len(findings)}, by line"):
        wrap = tag("div", "table-wrap").props('tabindex="0" role="region" aria-label="What was found"')
        with wrap, tag("table", "list"):
            with tag("thead"), tag("tr"):
                for name in ("Line", "What is wrong, and what to change"):
                    text("th", name)
            with tag("tbody"):
                for finding in findings:
                    with tag("tr"):
                        text("td", str(finding.get("line") or ""), "number")
                        with tag("td"), tag("div", "stack tight"):
                            text("span", str(finding.get("message", finding)))
                            text("span", str(finding.get("code") or ""), "quiet small")


def _preview(file: Json, beginning: bytes) -> None:
    is_whole = len(beginning) >= file["bytes"]
    lines = beginning.decode("utf-8", "replace").split("\n")
    lines = [line for line in (lines if is_whole else lines[:-1]) if line.strip()][:FIRST_SHOWN]
    if not lines:
        return
    if file["purpose"] != "fine-tune":
        with card("How it begins"):
            copyable("\n".join(lines), "The first lines")
        return
    with card("The first examples"), tag("ol", "examples"):
        for line in lines:
            with tag("li", "stack tight"):
                _example(line)


def _example(line: str) -> None:
    try:
        example = json.loads(line)
        messages = example["messages"]
        turns = [(str(one["role"]), _words(one)) for one in messages]
    except (ValueError, KeyError, TypeError):
        text("code", line[:MOST_CHARACTERS], "small break")  # another form, or one of those at fault
        return
    for role, words in turns:
        with tag("div", "turn"):
            text("span", role, "quiet small")
            text("p", words[:MOST_CHARACTERS], "said-words")


def _words(message: Json) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    return json.dumps({name: value for name, value in message.items() if name != "role"}, ensure_ascii=False)
