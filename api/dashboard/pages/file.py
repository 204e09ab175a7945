"""One file: what was found in it, its first examples as the conversations that they are, its hash."""

from __future__ import annotations

from urllib.parse import urlencode

from fastapi import Request
from nicegui import ui

from api.dashboard.bases import short_bytes
from api.dashboard.blocks import button, card, copyable, facts, link, refusals_in, tag, text
from api.dashboard.dialogs import confirm
from api.dashboard.doctor.example_view import show_line
from api.dashboard.doctor.file_frame import FILE, TRAINING, file_frame, file_of, is_foreign
from api.dashboard.pages.jobs import when
from api.dashboard.rest import Json, in_path
from api.dashboard.visit import Visit, visit_of

PREVIEW_BYTES = 64 * 1024
FIRST_SHOWN = 5
PACKED = (b"PK", b"PAR1", b"\xd0\xcf\x11\xe0")  # how Excel's and Parquet's files begin


@ui.page("/data/{file_id}", response_timeout=30)
async def file_page(request: Request, file_id: str) -> None:
    visit = visit_of(request)
    file = await file_of(visit, file_id)
    if file is None:
        return
    with file_frame(visit, file, FILE) as head:
        with head:
            _actions(visit, file)
        if visit.may("write"):
            _next_step(file)
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
        preview = tag("div")
        with preview, refusals_in(preview):
            path = f"/v1/files/{in_path(file_id)}/content"
            _preview(file, await visit.rest.beginning(path, PREVIEW_BYTES))


def _next_step(file: Json) -> None:
    """What most people do with such a file."""
    if is_foreign(file):
        with card("Make it a file to train on"):
            text("p", "Its form is found out, or you say which column holds what. A new file is made of it.")
            with tag("div", "row"):
                link(f"/data/{file['id']}/convert", "button primary", label="Convert it")
    elif file["purpose"] == TRAINING:
        with tag("div", "row"):
            ways = [("Check it", f"/data/{file['id']}/report")]
            if file["status"] == "processed":
                ways.append(("Train with it", f"/new?{urlencode({'training_file': file['id']})}"))
            else:
                ways.append(("Repair it", f"/data/{file['id']}/repair"))
            for label, path in ways:
                link(path, "button plain", label=label)


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
    if beginning.startswith(PACKED):
        return  # nothing of it can be read here; the preview of its conversion shows its rows
    is_whole = len(beginning) >= file["bytes"]
    lines = beginning.decode("utf-8", "replace").split("\n")
    lines = [line for line in (lines if is_whole else lines[:-1]) if line.strip()][:FIRST_SHOWN]
    if not lines:
        return
    if file["purpose"] != TRAINING:
        with card("How it begins"):
            copyable("\n".join(lines), "The first lines")
        return
    with card("The first examples"), tag("ol", "examples"):
        for line in lines:
            with tag("li", "stack tight"):
                show_line(line)
