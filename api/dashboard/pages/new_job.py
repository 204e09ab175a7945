"""From data to a running job on one page: data, base, name, start. Everything else is folded away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import Request
from nicegui import ui

from api.dashboard.bases import BaseChoice
from api.dashboard.blocks import button, card, empty, notice, refusals_in, tag, text
from api.dashboard.data_choice import DataChoice
from api.dashboard.draft import Draft, Unreadable, from_job
from api.dashboard.fields import Field, FollowingField, text_field
from api.dashboard.frame import frame
from api.dashboard.length_bounds import LengthBounds
from api.dashboard.plan_panel import PlanPanel
from api.dashboard.prompts_field import PromptsField
from api.dashboard.rest import Json, in_path
from api.dashboard.settings_form import SettingsForm
from api.dashboard.visit import Visit, visit_of


@ui.page("/new", response_timeout=30)
async def new_job_page(request: Request, again: str = "", training_file: str = "", validation_file: str = "") -> None:
    """`again`: a job's id, to begin with what it was asked to be. The others: ids of files to begin with."""
    visit = visit_of(request)
    with frame(visit, "Train a model", active="Train"):
        if not visit.may("write"):
            empty("This key cannot train", "Ask an admin of the project for a key with the scope “write”.")
            return
        place = tag("div", "stack wide-gap")
        with place:
            draft = Draft(training_file=training_file or None, validation_file=validation_file or None)
            with refusals_in(place):
                if again:
                    draft = from_job(await visit.rest.get(f"/v1/fine_tuning/jobs/{in_path(again)}"))
                NewJob(visit, draft, await visit.rest.get("/v1/attune/base_models"))


class NewJob:
    def __init__(self, visit: Visit, draft: Draft, bases: dict[str, Any]) -> None:
        self._visit = visit
        self._draft = draft
        with card("1  Data", note="What should it learn from?"):
            self._data = DataChoice(visit, draft, self._changed)
        with card("2  Base model", note="What it starts from"):
            BaseChoice(bases["data"], draft, self._changed)
        self._lengths = LengthBounds(draft, bases["data"])
        with card("3  Name and start"):
            self._name = FollowingField(_name_field, self._named)
            self._prompts = PromptsField(draft)
            self._settings = SettingsForm(draft, self._lengths, self._changed)
            self._plan = PlanPanel(visit, draft, self._planned)
            self._problem = tag("div")
            with tag("div", "row"):
                self._start = button("Start training", self._begin, kind="primary", icon="play_arrow")
                self._missing = text("span", "", "quiet")
        self._changed()

    def _named(self, name: str) -> str:
        self._draft.name = name
        return name

    def _changed(self) -> None:
        missing = [
            word
            for word, value in (("data", self._draft.training_file), ("a base model", self._draft.model))
            if value is None
        ]
        self._missing.text = f"Choose {' and '.join(missing)} first." if missing else ""
        self._name.show(self._draft.name)
        self._prompts.show()
        self._data.judge()
        self._settings.fit_length()
        self._plan.refresh()

    async def _planned(self, plan: Json) -> None:
        """What it tells of the data, and of a base that was fetched for it."""
        if not self._lengths.learn(plan):
            self._lengths.know((await self._visit.rest.get("/v1/attune/base_models"))["data"])
        self._settings.fit_length()

    async def _begin(self) -> None:
        self._problem.clear()
        with self._problem:
            if not self._draft.is_whole:
                notice(self._missing.text, "warning")
                return
            try:
                body = self._draft.request()
            except Unreadable as unreadable:
                notice(f"One of the settings cannot be read. {unreadable}", "error")
                return
        with refusals_in(self._problem):
            job = await self._visit.rest.post("/v1/fine_tuning/jobs", body)
            ui.navigate.to(f"/jobs/{job['id']}")


def _name_field(value: str, on_change: Callable[[], None]) -> Field:
    words = "Becomes a part of the model's id. You can leave it empty."
    attributes = 'maxlength="40" placeholder="for example: tickets"'
    return text_field("Name", value=value, help=words, attributes=attributes, on_change=on_change)
