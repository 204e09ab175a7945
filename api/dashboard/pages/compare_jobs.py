"""Two jobs' curves over each other, live where a job still runs, with the differences of their settings."""

from __future__ import annotations

import asyncio
from functools import partial

from fastapi import Request
from nicegui import background_tasks, ui

from api.dashboard.blocks import card, empty, link, refusals_in, tag, text
from api.dashboard.curve_tools import CurveTools
from api.dashboard.curves import Curves
from api.dashboard.fields import choice_field
from api.dashboard.frame import frame
from api.dashboard.overlay import differences, overlaid
from api.dashboard.pages.compare import ways
from api.dashboard.pages.jobs import when
from api.dashboard.rest import Json, Refused, SignedOut, in_path
from api.dashboard.visit import Visit, leave_for_sign_in, visit_of

DRAW_S = 0.7
MOST = 200  # newest jobs to choose from


@ui.page("/compare/jobs", response_timeout=30)
async def compare_jobs_page(request: Request, a: str = "", b: str = "") -> None:
    """`a`, `b`: ids of jobs; without them the newest two."""
    visit = visit_of(request)
    with frame(visit, "Compare", active="Compare", wide=True) as head:
        ways(head, "Curves of jobs")
        place = tag("div", "stack wide-gap")
        with place, refusals_in(place):
            jobs = await visit.rest.every("/v1/fine_tuning/jobs", most=MOST)
            known = {job["id"]: job for job in jobs}
            for wanted in (a, b):
                if wanted and wanted not in known:
                    known[wanted] = await visit.rest.get(f"/v1/fine_tuning/jobs/{in_path(wanted)}")
            if len(known) < 2:
                words = "Curves are laid over each other once there are two jobs."
                empty("Two jobs are needed", words, ("Train a model", "/new") if visit.may("write") else None)
                return
            free = [job_id for job_id in known if job_id not in (a, b)]
            first = a or free.pop(0)
            Overlay(visit, known, [first, b or free[0]])


class Overlay:
    def __init__(self, visit: Visit, jobs: dict[str, Json], chosen: list[str]) -> None:
        self._visit = visit
        self._jobs = jobs
        self._chosen = chosen
        self._is_dirty = False
        self._curves = [Curves(), Curves()]
        self._tasks: list[asyncio.Task[None] | None] = [None, None]
        options = [(job_id, f"{named(job)}, {when(job['created_at'])}") for job_id, job in jobs.items()]
        with tag("div", "columns"):
            self._fields = [
                choice_field(label, options, value=job_id, on_change=partial(self._choose, at))
                for at, (label, job_id) in enumerate(zip(("First job", "Second job"), chosen, strict=True))
            ]
        self._problem = tag("div")
        with card():
            self._curve_tools = CurveTools(self._mark_dirty)
            self._chart = ui.echart({}).classes("chart")
            self._chart.props["role"] = "img"
            self._chart.props["aria-label"] = "The curves of both jobs over their steps; the table below lists results"
        self._table = tag("div")
        ui.timer(DRAW_S, self._draw)
        ui.context.client.on_delete(self._leave)
        for at in (0, 1):
            self._follow(at)
        self._list_differences()

    def _mark_dirty(self) -> None:
        self._is_dirty = True

    def _choose(self, at: int) -> None:
        self._chosen[at] = self._fields[at].value
        self._follow(at)
        self._list_differences()

    def _follow(self, at: int) -> None:
        self._stop(at)
        self._curves[at] = Curves()
        self._is_dirty = True
        job_id = self._chosen[at]
        self._tasks[at] = background_tasks.create(self._read(job_id, self._curves[at]), name=f"overlay {job_id}")

    async def _read(self, job_id: str, curves: Curves) -> None:
        try:
            async for event in self._visit.rest.events(job_id, None):
                if event.data["type"] == "metrics":
                    curves.add(event.data["data"])
                    self._is_dirty = True
        except SignedOut:
            with self._problem:
                leave_for_sign_in()
        except Refused as refused:
            with self._problem, refusals_in(self._problem):
                raise refused

    def _stop(self, at: int) -> None:
        task = self._tasks[at]
        if task is not None:
            task.cancel()

    def _leave(self) -> None:
        self._stop(0)
        self._stop(1)

    def _draw(self) -> None:
        if not self._is_dirty:
            return
        self._is_dirty = False
        names = [named(self._jobs[job_id]) for job_id in self._chosen]
        if names[0] == names[1]:
            names = [f"{name} ({job_id[-4:]})" for name, job_id in zip(names, self._chosen, strict=True)]
        pair = list(zip(names, self._curves, strict=True))
        self._chart.options.clear()
        tools = self._curve_tools
        self._chart.options.update(overlaid(pair, tools.view, smoothing=tools.smoothing, is_log=tools.is_log))
        self._chart.update()

    def _list_differences(self) -> None:
        pair = [self._jobs[job_id] for job_id in self._chosen]
        found = differences(pair[0], pair[1])
        self._table.clear()
        with self._table, card("What differs"):
            if not found:
                text("p", "Nothing: both jobs were asked for the same, with the same seed.", "quiet")
                return
            wrap = tag("div", "table-wrap").props('tabindex="0" role="region" aria-label="What differs"')
            with wrap, tag("table", "list"):
                with tag("thead"), tag("tr"):
                    text("th", "Setting")
                    for job in pair:
                        with tag("th"):
                            link(f"/jobs/{job['id']}", label=named(job))
                with tag("tbody"):
                    for one in found:
                        with tag("tr"):
                            text("td", one.name, "quiet")
                            for value in one.values:
                                text("td", value, "number")


def named(job: Json) -> str:
    return str(job["user_provided_suffix"] or job["id"])
