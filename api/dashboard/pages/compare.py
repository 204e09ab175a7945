"""Models side by side in a chat: the same words to each, answers as they are generated."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Request
from nicegui import ui

from api.dashboard.answers import Column, Options, Unfit
from api.dashboard.blocks import button, empty, enable, link, notice, refusals_in, tag, text
from api.dashboard.fields import Field, text_field
from api.dashboard.frame import frame
from api.dashboard.rest import Json
from api.dashboard.visit import Visit, visit_of

MOST_COLUMNS = 3
_SEND = """(e) => {
  e.preventDefault();
  const field = e.target.elements.prompt;
  if (field.value.trim()) { emit(field.value); field.value = ''; }
}"""
_ENTER = """(e) => {
  if (e.key === 'Enter' && !e.shiftKey && !e.isComposing) { e.preventDefault(); e.target.form.requestSubmit(); }
}"""


@ui.page("/compare", response_timeout=30)
async def compare_page(request: Request, models: Annotated[list[str] | None, Query()] = None) -> None:
    """`models`: to begin with; without them the newest model and its base."""
    visit = visit_of(request)
    with frame(visit, "Compare", active="Compare", wide=True) as head:
        ways(head, "Chat")
        if not visit.may("inference"):
            empty("This key cannot ask models", "Ask an admin of the project for a key with the scope “inference”.")
            return
        place = tag("div", "stack wide-gap")
        with place, refusals_in(place):
            usable: list[Json] = (await visit.rest.get("/v1/models"))["data"]
            usable = [one for one in usable if one["attune"]["status"] == "ready"]
            if not usable:
                empty("There is nothing to ask yet", "Train a model, or let an operator add a base.", ("Train", "/new"))
                return
            Compare(visit, usable, models or [])


def ways(head: ui.element, active: str) -> None:
    """Between the two things that can be laid side by side."""
    with head, tag("nav", "choices").props('aria-label="What to compare"'):
        for name, path in (("Chat", "/compare"), ("Curves of jobs", "/compare/jobs")):
            place = link(path, "choice", label=name)
            if name == active:
                place.props('aria-current="page"')


class Compare:
    def __init__(self, visit: Visit, models: list[Json], wanted: list[str]) -> None:
        self._visit = visit
        self._models = models
        self._columns: list[Column] = []
        with tag("div", "row between") as self._tools:
            self._add = button("Add a model", lambda: self._open(self._next()), icon="add")
            button("Begin anew", self._clear, kind="text")
        self._place = tag("div", "chats")
        self._problem = tag("div").props('aria-live="polite"')
        with tag("form", "card ask") as form:
            prompt = tag("textarea").props('id="prompt" name="prompt" rows="2" placeholder="Ask all of them"')
            prompt.props["aria-label"] = "Message to all models"
            prompt.on("keydown", js_handler=_ENTER)
            with tag("div", "row"):
                with tag("button", "button primary").props('type="submit"') as self._send:
                    text("span", "Send")
                self._stop = button("Stop", self._stop_all, icon="stop")
                text("span", "Enter sends, Shift and Enter begins a line", "quiet small wide-only")
            self._settings()
        form.on("submit", self._ask, js_handler=_SEND)
        enable(self._stop, False)
        known = {one["id"] for one in models}
        for model in wanted[:MOST_COLUMNS]:
            if model in known:
                self._open(model)
            else:
                with self._problem:
                    notice(f"{model} is not among the models that can be asked.", "warning")
        while len(self._columns) < min(2, len(models)):
            self._open(self._next())

    def _settings(self) -> None:
        with tag("details", "fold"):
            text("summary", "Settings")
            with tag("div", "settings"):
                self._system: Field = text_field("System message", help="What each is told before the first message.")
                decimal = 'inputmode="decimal"'
                self._temperature = text_field(
                    "Temperature",
                    value="0",
                    help="0 always takes the likeliest word; 1 draws freely.",
                    attributes=decimal,
                )
                self._tokens = text_field("Most tokens", value="256", help="Of one answer.", attributes=decimal)
                self._seed = text_field(
                    "Seed", help="With the same seed a drawn answer comes again.", attributes=decimal
                )

    def _next(self) -> str:
        """A model that is not open yet: the base of the first, or else the newest."""
        opened = [column.model for column in self._columns]
        bases = [one["attune"]["base_model"] for one in self._models if one["id"] in opened]
        order = [*bases, *(one["id"] for one in self._models)]
        usable = {one["id"] for one in self._models}
        return next((one for one in order if one in usable and one not in opened), order[0])

    def _open(self, model: str) -> None:
        with self._place:
            column = Column(self._visit.rest, self._models, model, self._settled, self._close)
        self._columns.append(column)
        self._place.style(f"--columns: {len(self._columns)}")
        self._add.set_visibility(len(self._columns) < MOST_COLUMNS)
        for one in self._columns:
            one.may_close(len(self._columns) > 1)

    def _close(self, column: Column) -> None:
        self._columns.remove(column)
        column.remove()
        self._place.style(f"--columns: {len(self._columns)}")
        self._add.set_visibility(True)
        for one in self._columns:
            one.may_close(len(self._columns) > 1)
        self._settled()

    def _ask(self, event: Any) -> None:
        self._problem.clear()
        try:
            options = Options.read(self._system.value, self._temperature.value, self._tokens.value, self._seed.value)
        except Unfit as unfit:
            with self._problem:
                notice(str(unfit), "error")
            return
        enable(self._send, False)
        enable(self._stop, True)
        for column in self._columns:
            column.ask(str(event.args).strip(), options)

    def _settled(self) -> None:
        """One of them has ended its answer."""
        is_busy = any(column.is_busy for column in self._columns)
        enable(self._send, not is_busy)
        enable(self._stop, is_busy)

    def _stop_all(self) -> None:
        for column in self._columns:
            column.stop()
        self._settled()

    def _clear(self) -> None:
        self._problem.clear()
        for column in self._columns:
            column.clear()
        self._settled()
