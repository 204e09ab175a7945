"""The plan before the start: what the job will cost, on which worker it fits, and what the last change did to it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from nicegui import background_tasks
from nicegui.elements.mixins.text_element import TextElement

from api.dashboard.bases import short_bytes, short_count
from api.dashboard.blocks import facts, notice, refusals_in, skeleton, tag, text
from api.dashboard.draft import Draft, Unreadable
from api.dashboard.reasons import show_reasons
from api.dashboard.rest import Json, Refused
from api.dashboard.visit import Visit

ASK_AGAIN_S = 1.0  # while the files are being counted
PLANNED = ("model", "training_file", "validation_file", "method", "attune")  # of a job's request


class PlanPanel:
    """`refresh` after every change of the draft; only the newest question's answer is shown, and of it what is new:
    a fold stays open, and a slider that is moved is answered by a few numbers and not by a page.
    """

    def __init__(self, visit: Visit, draft: Draft, on_plan: Callable[[Json], Awaitable[None]]) -> None:
        """`on_plan` gets each plan of the draft as it stands."""
        self._visit = visit
        self._draft = draft
        self._on_plan = on_plan
        self._asked = 0
        self._plan: Json | None = None
        self._values: dict[str, TextElement] = {}
        with tag("div", "plan") as self._place:
            self._problem = tag("div")
            with tag("div", "plan plan-answer") as self._answer:
                self._facts = tag("div")
                self._effect = text("p", "", "effect small").props('aria-live="polite"')
                self._workers = tag("div", "stack")
                with tag("details", "fold") as fold:
                    text("summary", "Every value, and why")
                    self._reasons = tag("div")
                fold.on("toggle", self._unfold, js_handler="(e) => emit(e.target.open)")
        self._is_unfolded = False
        self._place.set_visibility(False)

    def refresh(self) -> None:
        self._asked += 1
        self._place.set_visibility(self._draft.is_whole)
        if not self._draft.is_whole:
            return
        if self._plan is None:
            self._answer.set_visibility(False)
            self._problem.clear()
            with self._problem:
                skeleton(3)
        background_tasks.create(self._ask(self._asked), name="plan")

    async def _ask(self, number: int) -> None:
        try:
            request = self._draft.request()
        except Unreadable:
            return  # the field says so
        body = {name: value for name, value in request.items() if name in PLANNED}
        with self._problem, refusals_in(self._problem):
            while number == self._asked and not self._place.is_deleted:
                try:
                    plan = await self._visit.rest.post("/v1/attune/plans", body)
                except Refused:
                    self._answer.set_visibility(False)  # it is no answer to this question
                    raise
                if number != self._asked or self._place.is_deleted:
                    return
                if plan["status"] == "ready":
                    before, self._plan = self._plan, plan
                    self._problem.clear()
                    self._answer.set_visibility(True)
                    self._show(plan, before)
                    await self._on_plan(plan)
                    return
                await asyncio.sleep(ASK_AGAIN_S)

    def _show(self, plan: Json, before: Json | None) -> None:
        figures = _figures(plan)
        self._effect.text = "" if before is None else _change(_figures(before), figures)
        if figures.keys() != self._values.keys():
            self._facts.clear()
            with self._facts:
                self._values = facts(list(figures.items()))
        for name, value in figures.items():
            self._values[name].text = value
        if before is None or plan["workers"] != before["workers"]:
            self._workers.clear()
            with self._workers:
                _show_workers(plan["workers"])
        self._show_reasons()

    def _unfold(self, event: Any) -> None:
        self._is_unfolded = bool(event.args)
        self._show_reasons()

    def _show_reasons(self) -> None:
        """Only while they are seen: they are most of the panel, and a slider that is moved should not wait for them."""
        if self._plan is None or not self._is_unfolded:
            return
        self._reasons.clear()
        with self._reasons:
            more = {"Beside the simple table": _beside_the_table(self._plan)}
            show_reasons(self._plan["hyperparameters"], self._plan["reasons"], more)


def _figures(plan: Json) -> dict[str, str]:
    """What a plan comes to, of all that is known; each slider moves at least one of them."""
    hyper, share = plan["hyperparameters"], plan["trainable_share"]
    fitting = [worker for worker in plan["workers"] if worker["fits"]]
    memory = min((worker["required_bytes"] for worker in fitting or plan["workers"]), default=None)
    lora = hyper["lora"]
    figures = {
        "Training takes": "" if plan["takes_s"] is None else lasting(plan["takes_s"]),
        "Starts": "" if plan["starts_in_s"] is None else _starts(plan["starts_in_s"]),
        "Steps": f"{plan['total_steps']:,}",
        "Tokens": short_count(plan["trained_tokens"]),
        "Adapter": "" if lora is None else f"rank {lora['rank']}, scale {lora['scale']:g}x",
        "Trainable": f"{short_count(plan['trainable_parameters'])}" + (f" ({share:.2%})" if share else ""),
        "Longest example": f"{hyper['max_example_tokens']:,} tokens",
        "Memory": "" if memory is None else short_bytes(memory),
        "Cost": "" if plan["cost"] is None else f"{plan['cost']:.2f}",
    }
    return {name: value for name, value in figures.items() if value}


def _change(before: dict[str, str], now: dict[str, str]) -> str:
    changed = [
        f"{name.lower()} {before[name]} → {now[name]}" for name in now if name in before and before[name] != now[name]
    ]
    return f"The last change: {'; '.join(changed)}." if changed else ""


def _starts(seconds: float) -> str:
    return "at once" if seconds < 1 else f"in about {lasting(seconds)}"


def _show_workers(workers: list[Json]) -> None:
    if not workers:
        notice("No worker is running now. The job waits until one starts.", "warning")
    for worker in workers:
        with tag("div", "fit"):
            kind = "good" if worker["fits"] else "bad"
            text("span", "fits" if worker["fits"] else "does not fit", f"state {kind}")
            with tag("div", "stack tight small"):
                text("span", f"{worker['worker']}: {worker['why']}", "break")
                text("span", _by_part(worker["memory"]), "quiet number")


def _by_part(memory: dict[str, int]) -> str:
    """The memory of a run in its parts, the largest first."""
    parts = sorted(((size, name) for name, size in memory.items() if size), reverse=True)
    return ", ".join(f"{name} {short_bytes(size)}" for size, name in parts)


def _beside_the_table(plan: Json) -> str:
    return (
        f"{short_count(plan['trainable_parameters'])} is counted layer by layer. Introductions to LoRA treat the model "
        f"as one square matrix, and would say {short_count(plan['simple_trainable_parameters'])}."
    )


def lasting(seconds: float) -> str:
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
