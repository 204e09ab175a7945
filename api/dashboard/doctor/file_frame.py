"""What every page about one file stands in: its name, its verdict, and the ways to what can be done with it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from nicegui import ui

from api.dashboard.blocks import link, notice, tag, text
from api.dashboard.frame import frame
from api.dashboard.rest import Json, Refused, in_path
from api.dashboard.visit import Visit

TRAINING, FOREIGN = "fine-tune", "user_data"
FILE, CONVERT, REPORT, REPAIR, TRAINED, SPLIT = "File", "Convert", "Report", "Repair", "What is trained", "Split"
_PATHS = {FILE: "", CONVERT: "/convert", REPORT: "/report", REPAIR: "/repair", TRAINED: "/trained", SPLIT: "/split"}


async def file_of(visit: Visit, file_id: str) -> Json | None:
    """The file; where there is none a page says so, and this is None."""
    try:
        return await visit.rest.get(f"/v1/files/{in_path(file_id)}")
    except Refused as refused:
        with frame(visit, "File", active="Data"):
            notice(refused.message, "error")
            link("/data", "button plain", label="All files")
        return None


@contextmanager
def file_frame(visit: Visit, file: Json, active: str) -> Generator[ui.element]:
    """Yields the row of the heading, for actions."""
    with frame(visit, file["filename"], active="Data", wide=True) as head:
        with head:
            verdict_state(file)
        places = _places(visit, file)
        if len(places) > 1:
            with tag("nav", "choices tabs").props('aria-label="About this file"'):
                for name in places:
                    place = link(f"/data/{file['id']}{_PATHS[name]}", "choice", label=name)
                    if name == active:
                        place.props('aria-current="page"')
        yield head


def _places(visit: Visit, file: Json) -> list[str]:
    if file["purpose"] == FOREIGN and visit.may("write"):
        return [FILE, CONVERT]
    if file["purpose"] != TRAINING:
        return [FILE]
    writing = (REPAIR, SPLIT) if visit.may("write") else ()
    foreign = (CONVERT,) if is_foreign(file) and visit.may("write") else ()
    return [name for name in _PATHS if name in (FILE, REPORT, TRAINED, *writing, *foreign)]


def is_foreign(file: Json) -> bool:
    """Whether no line of it is an example as it is: it is of another form, which a conversion may know."""
    if file["purpose"] == FOREIGN:
        return True
    return file["purpose"] == TRAINING and file["status"] == "error" and not file["attune"]["examples"]


def verdict_state(file: Json) -> None:
    """The verdict on a file, as a word with a colour."""
    if file["purpose"] != TRAINING:
        words = "Not converted yet" if file["purpose"] == FOREIGN else file["purpose"].replace("_", " ").capitalize()
        text("span", words.replace("-", " "), "state off")
    elif file["status"] == "error":
        text("span", "Has errors", "state bad")
    elif file["attune"]["findings"]:
        text("span", "Has warnings", "state waiting")
    else:
        text("span", "Ready", "state good")
