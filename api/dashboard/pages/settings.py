"""The project and its limits, and who is signed in. Operators set the limits here."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import Request
from nicegui import ui

from api.dashboard.bases import short_bytes
from api.dashboard.blocks import button, card, facts, notice, refusals_in, tag, tell, text
from api.dashboard.fields import Field, text_field
from api.dashboard.frame import frame
from api.dashboard.rest import Json, in_path
from api.dashboard.visit import Visit, visit_of

MIB = 2**20
LIMITS = (
    ("max_jobs", "Unfinished jobs", 1, ""),
    ("max_stored_bytes", "Storage in MiB", MIB, "Files and adapters together."),
    ("max_requests_per_minute", "Requests a minute", 1, ""),
)


@ui.page("/settings", response_timeout=30)
async def settings_page(request: Request) -> None:
    visit = visit_of(request)
    with frame(visit, "Settings", active="Settings"):
        place = tag("div", "stack wide-gap")
        with place, refusals_in(place):
            project = await visit.rest.get(f"/v1/attune/projects/{in_path(visit.project_id)}")
            Project(visit, project)
            with card("You"):
                may = "everything" if visit.is_operator else ", ".join(sorted(visit.scopes))
                facts([("Key", visit.key_name), ("It may", may), ("Key id", visit.key_id)])
                words = "The theme is chosen beside the navigation, and kept in this browser. A session ends by itself."
                text("p", words, "quiet small")


class Project:
    def __init__(self, visit: Visit, project: Json) -> None:
        self._visit = visit
        self._path = f"/v1/attune/projects/{in_path(project['id'])}"
        with card("Project"):
            facts([("Name", project["name"]), ("In model ids", project["slug"]), ("Id", project["id"])])
        with card("Use and limits"):
            self._use = tag("div", "stack")
            self._show(project)
            if visit.is_operator:
                with tag("details", "fold"):
                    text("summary", "Change the limits")
                    with tag("div", "stack"):
                        with tag("div", "settings"):
                            self._fields = [_limit(project, *one) for one in LIMITS]
                        self._problem = tag("div").props('aria-live="polite"')
                        with tag("div", "row"):
                            button("Save", self._save, kind="primary")
            else:
                text("p", "Whoever runs this place sets the limits.", "quiet small")

    def _show(self, project: Json) -> None:
        quotas, usage = project["quotas"], project["usage"]
        self._use.clear()
        with self._use:
            _meter("Unfinished jobs", usage["jobs"], quotas["max_jobs"], str)
            _meter("Storage", usage["stored_bytes"], quotas["max_stored_bytes"], short_bytes)
            rate = quotas["max_requests_per_minute"]
            with tag("div", "row between"):
                text("span", "Requests a minute")
                text("span", "no limit" if rate is None else f"at most {rate}", "quiet number")

    async def _save(self) -> None:
        self._problem.clear()
        body: Json = {}
        for (name, label, unit, _), field in zip(LIMITS, self._fields, strict=True):
            typed = field.value.strip()
            if typed and not typed.isdecimal():
                with self._problem:
                    notice(f"{label}: a whole number, or empty for no limit.", "error")
                return
            body[name] = int(typed) * unit if typed else None
        with refusals_in(self._problem):
            self._show(await self._visit.rest.patch(self._path, body))
            tell("The limits hold from the next request on.")


def _limit(project: Json, name: str, label: str, unit: int, help: str) -> Field:
    now = project["quotas"][name]
    value = "" if now is None else str(now // unit)
    return text_field(label, value=value, help=help, attributes='inputmode="numeric" placeholder="No limit"')


def _meter(label: str, used: int, limit: int | None, shown: Callable[[int], str]) -> None:
    with tag("div", "stack tight"):
        with tag("div", "row between"):
            text("span", label)
            words = f"{shown(used)}, no limit" if limit is None else f"{shown(used)} of {shown(limit)}"
            text("span", words, "quiet number")
        if limit is not None:
            with tag("div", "progress").props(f'role="meter" aria-valuemin="0" aria-label="{label}"') as bar:
                bar.props["aria-valuenow"], bar.props["aria-valuemax"] = min(used, limit), limit
                tag("div").style(f"width: {min(100, 100 * used / (limit or 1)):.2f}%")
