"""A file of a foreign form is made one that is trained on: recognised, or mapped by choosing its columns."""

from __future__ import annotations

from urllib.parse import urlencode

from fastapi import Request
from nicegui import ui

from api.dashboard.blocks import card, empty, link, tag, text
from api.dashboard.doctor.conversion import Conversion
from api.dashboard.doctor.file_frame import CONVERT, file_frame, file_of
from api.dashboard.rest import Json
from api.dashboard.visit import visit_of


@ui.page("/data/{file_id}/convert", response_timeout=30)
async def convert_page(request: Request, file_id: str) -> None:
    visit = visit_of(request)
    file = await file_of(visit, file_id)
    if file is None:
        return
    with file_frame(visit, file, CONVERT):
        if not visit.may("write"):
            empty("This key cannot convert", "Ask an admin of the project for a key with the scope “write”.")
            return
        with card("From this file to one that is trained on"):
            Conversion(visit, file, _made)


async def _made(file: Json) -> None:
    with tag("div", "row"):
        link(f"/data/{file['id']}/report", "button primary", label="Check the new file")
        if file["status"] == "processed":
            link(f"/new?{urlencode({'training_file': file['id']})}", "button plain", label="Train with it")
    text("p", "It is a file of its own; this one stays as it is.", "quiet small")
