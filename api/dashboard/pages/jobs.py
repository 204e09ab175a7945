"""The list of jobs: what runs, what waits, what came of the others. It is read again while it is open."""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import Request
from nicegui import ui

from api.dashboard.blocks import empty, link, refusals_in, skeleton, state, tag, text
from api.dashboard.fields import Choices
from api.dashboard.frame import frame
from api.dashboard.plan_panel import lasting
from api.dashboard.rest import Json
from api.dashboard.visit import Visit, visit_of

REFRESH_S = 2.0
MOST = 500  # newest jobs that are listed
FILTERS = {
    "all": ("All", ()),
    "active": ("Active", ("validating_files", "queued", "running", "paused")),
    "succeeded": ("Succeeded", ("succeeded",)),
    "ended": ("Failed or cancelled", ("failed", "cancelled")),
}


@ui.page("/")
async def jobs_page(request: Request) -> None:
    visit = visit_of(request)
    with frame(visit, "Jobs", active="Jobs", wide=True) as head:
        if visit.may("write"):
            with head:
                link("/new", "button primary", label="Train a model")
        JobList(visit)


class JobList:
    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._jobs: list[Json] | None = None
        self._wanted = "all"
        self._searched = ""
        with tag("div", "row") as self._tools:
            search = ui.element("input").props(
                'type="search" placeholder="Search name, model or id" aria-label="Search jobs"'
            )
            search.classes("search")
            search.on("input", lambda event: self._search(event.args), js_handler="(e) => emit(e.target.value)")
            Choices("Show", [(name, label) for name, (label, _) in FILTERS.items()], self._filter)
        self._list = tag("div", "job-list")
        with self._list:
            skeleton(6)
        ui.timer(REFRESH_S, self._refresh)

    def _filter(self, name: str) -> None:
        self._wanted = name
        self._show()

    def _search(self, words: str) -> None:
        self._searched = words.strip().lower()
        self._show()

    async def _refresh(self) -> None:
        with refusals_in(self._list):
            jobs = await self._visit.rest.every("/v1/fine_tuning/jobs", most=MOST)
            if jobs != self._jobs:
                self._jobs = jobs
                self._show()

    def _show(self) -> None:
        if self._jobs is None:
            return
        statuses = FILTERS[self._wanted][1]
        shown = [
            job
            for job in self._jobs
            if (not statuses or job["status"] in statuses) and self._searched in _searchable(job)
        ]
        self._tools.set_visibility(bool(self._jobs))
        self._list.clear()
        with self._list:
            if not self._jobs:
                empty(
                    "No jobs yet",
                    "Train a first model in two minutes: sample data ships with Attune, and everything else has a "
                    "good default.",
                    ("Train a model", "/new") if self._visit.may("write") else None,
                )
            elif not shown:
                empty("Nothing matches", "No job has these words and this state. Change the search or the filter.")
            for job in shown:
                _row(job)


def _searchable(job: Json) -> str:
    words = (job["id"], job["user_provided_suffix"], job["model"], job["fine_tuned_model"], job["status"])
    return " ".join(word for word in words if word).lower()


def _row(job: Json) -> None:
    progress = job["attune"]["progress"]
    with link(f"/jobs/{job['id']}", "job-row"):
        with tag("div", "stack tight"):
            text("span", job["user_provided_suffix"] or job["id"], "strong cut")
            text("span", f"{job['model']} · {when(job['created_at'])}", "quiet small cut")
        with tag("div", "job-progress"):
            if job["status"] in ("running", "paused") and progress["total_steps"]:
                text("span", f"step {progress['step']} of {progress['total_steps']}", "quiet small number")
                with tag("div", "progress"):
                    tag("div").style(f"width: {100 * progress['step'] / progress['total_steps']:.1f}%")
            elif job["status"] == "succeeded" and job["attune"]["started_at"] is not None:
                took = lasting(job["finished_at"] - job["attune"]["started_at"])
                text("span", f"{progress['step']} steps in {took}", "quiet small number")
        state(job["status"])


def when(seconds: int) -> str:
    """A time in words that need no time zone: what matters is how long ago it was."""
    ago = max(0, int(datetime.now(UTC).timestamp()) - seconds)
    for size, word in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if ago >= size:
            count = ago // size
            return f"{count} {word}{'s' if count > 1 else ''} ago"
    return "just now"
