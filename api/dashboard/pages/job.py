"""One job, live: progress, curves, samples, events, what was planned, and the request to copy.

A pure reader: the page follows the job's event stream from its first event, so that whoever closes it and comes
back sees everything, and the job never notices.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, datetime

from fastapi import Request
from nicegui import background_tasks, ui

from api.dashboard.answers import comparing
from api.dashboard.as_code import as_curl, as_python
from api.dashboard.blocks import button, card, copyable, link, notice, refusals_in, root, skeleton, state, tag, text
from api.dashboard.curve_tools import CurveTools
from api.dashboard.curves import VIEWS, Curves, options
from api.dashboard.dialogs import confirm
from api.dashboard.embed_dialog import offer_embed
from api.dashboard.frame import frame
from api.dashboard.job_cards import OVER, checkpoints_card, progress_card
from api.dashboard.plan_card import PlanCard
from api.dashboard.rest import Json, Refused, SignedOut, in_path
from api.dashboard.samples import Samples
from api.dashboard.visit import Visit, leave_for_sign_in, visit_of

DRAW_S = 0.7  # between two drawings of a live chart
ASK_S = 2.0  # between two looks at a live job
RECONNECT_S = 1.0
MOST_EVENTS = 200  # shown, the newest


@ui.page("/jobs/{job_id}", response_timeout=30)
async def job_page(request: Request, job_id: str) -> None:
    visit = visit_of(request)
    path = f"/v1/fine_tuning/jobs/{in_path(job_id)}"
    try:
        job = await visit.rest.get(path)
    except Refused as refused:
        with frame(visit, "Job", active="Jobs"):
            notice(refused.message, "error")
            link("/", "button plain", label="All jobs")
        return
    with frame(visit, job["user_provided_suffix"] or job["id"], active="Jobs", wide=True) as head:
        page = JobPage(visit, job, head, str(request.base_url).removesuffix("/").removesuffix(root()))
        client = ui.context.client
        task = background_tasks.create(page.follow(), name=f"follow {job_id}")
        client.on_delete(task.cancel)


class JobPage:
    def __init__(self, visit: Visit, job: Json, head: ui.element, address: str) -> None:
        self._visit = visit
        self._job = job
        self._address = address
        self._path = f"/v1/fine_tuning/jobs/{in_path(job['id'])}"
        self._curves = Curves()
        self._is_dirty = False
        self._checkpoints_of = ""  # the status with which they were last asked for
        self._shown: dict[str, object] = {}  # what each part of the page shows, to leave alone what has not changed
        with head:
            self._state = tag("div", "row")
            self._actions = tag("div", "row")
        self._status = tag("div", "stack")
        with card("Curves") as self._chart_card:
            self._curve_tools = CurveTools(self._redraw)
            self._chart = ui.echart(self._options()).classes("chart")
            self._chart.props["role"] = "img"
            self._chart.props["aria-label"] = "The job's curves over its steps; the events below hold the numbers"
        self._samples = Samples()
        with tag("div", "columns"):
            with card("Events", note="newest first"):
                self._events = tag("ol", "events").props('tabindex="0" aria-label="Events"')
                with self._events:
                    self._events_wait = skeleton(4)
            with tag("div", "stack wide-gap"):
                self._plan = PlanCard()
                self._checkpoints = tag("div")
        with card("The same request, as code", classes="code"), tag("div", "columns"):
            copyable(as_python(job, address), "Python")
            copyable(as_curl(job, address), "curl")
        self._show()
        ui.timer(DRAW_S, self._draw)
        ui.timer(ASK_S, self._look)

    # What it follows

    async def follow(self) -> None:
        """Read the stream to its end; go on after a break where it stopped."""
        after: str | None = None
        while True:
            try:
                async for event in self._visit.rest.events(self._job["id"], after):
                    after = event.id
                    self._take(event.data)
            except SignedOut:
                with self._status:
                    leave_for_sign_in()
                return
            except Refused:
                pass  # a moment without the service; the next look says so on the page
            await self._look()
            if self._job["status"] in OVER:
                return
            await asyncio.sleep(RECONNECT_S)

    def _take(self, event: Json) -> None:
        data = event["data"] or {}
        if event["type"] == "metrics":
            self._curves.add(data)
            self._is_dirty = True
            self._job["attune"]["progress"].update(step=data["step"], total_steps=data["total_steps"])
        if not self._samples.take(event):
            self._add_event(event)

    async def _look(self) -> None:
        """Ask for the job again, unless nothing about it can change any more."""
        if self._checkpoints_of in OVER:
            return
        with refusals_in(self._status):
            self._job = await self._visit.rest.get(self._path)
            checkpoints = await self._visit.rest.get(f"{self._path}/checkpoints", limit=20)
            self._checkpoints_of = self._job["status"]
            self._show()
            self._renew("checkpoints", self._checkpoints, checkpoints["data"], lambda: self._list(checkpoints["data"]))

    # What it shows

    def _show(self) -> None:
        job, ours = self._job, self._job["attune"]
        flags = (job["status"], ours["pause_requested"], ours["cancel_requested"])
        self._renew("state", self._state, job["status"], lambda: state(job["status"]))
        self._renew("actions", self._actions, flags, self._show_actions)
        self._renew("progress", self._status, deepcopy(job), lambda: progress_card(job))
        self._plan.show(job)

    def _renew(self, name: str, place: ui.element, now: object, build: Callable[[], object]) -> None:
        """Build a part of the page anew where what it shows is another: a fold stays open, and focus where it is."""
        if name in self._shown and self._shown[name] == now:
            return
        self._shown[name] = now
        place.clear()
        with place:
            build()

    def _show_actions(self) -> None:
        job, ours = self._job, self._job["attune"]
        if job["fine_tuned_model"] is not None and self._visit.may("inference"):
            label = "Compare with its base"
            link(comparing(job["fine_tuned_model"], job["model"]), "button primary", label=label)
        if self._visit.may("read"):
            button("Embed", lambda: offer_embed(self._visit, job["id"], self._address), icon="code")
        if not self._visit.may("write"):
            return
        is_stopping = ours["cancel_requested"] or ours["pause_requested"]
        if job["status"] in ("queued", "running") and not is_stopping:
            button("Pause", lambda: self._act("pause"), icon="pause")
        if job["status"] == "paused":
            button("Resume", lambda: self._act("resume"), kind="primary", icon="play_arrow")
        if job["status"] not in OVER and not ours["cancel_requested"]:
            button("Cancel", self._confirm_cancel, kind="danger", icon="close")
        link(f"/new?again={job['id']}", "button plain", label="Run again with changes")

    async def _act(self, what: str) -> None:
        self._job = await self._visit.rest.post(f"{self._path}/{what}")
        self._show()

    def _confirm_cancel(self) -> None:
        words = "It stops for good. Checkpoints that it has published stay usable."
        confirm("Cancel this job?", words, "Cancel the job", lambda: self._act("cancel"), keep="Keep it running")

    def _list(self, checkpoints: list[Json]) -> None:
        checkpoints_card(self._job, checkpoints, may_ask=self._visit.may("inference"))

    def _options(self) -> Json:
        tools = self._curve_tools
        return options(self._curves, VIEWS[tools.view], smoothing=tools.smoothing, is_log=tools.is_log)

    def _redraw(self) -> None:
        self._chart.options.clear()
        self._chart.options.update(self._options())
        self._chart.update()

    def _draw(self) -> None:
        if self._is_dirty:
            self._is_dirty = False
            self._redraw()
            self._show()

    def _add_event(self, event: Json) -> None:
        if event["type"] == "metrics" and "valid_loss" not in (event["data"] or {}):
            return  # the curves show it; a line a step would bury the rest
        if not self._events_wait.is_deleted:
            self._events_wait.delete()
        with self._events, tag("li", event["level"]) as line:
            text("time", datetime.fromtimestamp(event["created_at"], UTC).strftime("%H:%M:%S"), "quiet number")
            text("span", event["message"])
        line.move(target_index=0)
        shown = self._events.default_slot.children
        if len(shown) > MOST_EVENTS:
            shown[-1].delete()
