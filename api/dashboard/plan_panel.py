"""The plan before the start: what the job will cost, on which worker it fits, and what the last change did to it."""

from __future__ import annotations

import asyncio

from nicegui import background_tasks

from api.dashboard.bases import short_bytes, short_count
from api.dashboard.blocks import facts, notice, refusals_in, skeleton, tag, text
from api.dashboard.draft import Draft, Unreadable
from api.dashboard.rest import Json
from api.dashboard.visit import Visit

ASK_AGAIN_S = 1.0  # while the files are being counted
PLANNED = ("model", "training_file", "validation_file", "method", "attune")  # of a job's request


class PlanPanel:
    """`refresh` after every change of the draft; only the newest question's answer is shown."""

    def __init__(self, visit: Visit, draft: Draft) -> None:
        self._visit = visit
        self._draft = draft
        self._asked = 0
        self._plan: Json | None = None
        self._place = tag("div", "plan").props('aria-live="polite"')

    def refresh(self) -> None:
        self._asked += 1
        if not self._draft.is_whole:
            self._place.clear()
            return
        if self._plan is None:
            self._place.clear()
            with self._place:
                skeleton(3)
        background_tasks.create(self._ask(self._asked), name="plan")

    async def _ask(self, number: int) -> None:
        try:
            request = self._draft.request()
        except Unreadable:
            return  # the field says so
        body = {name: value for name, value in request.items() if name in PLANNED}
        with self._place, refusals_in(self._place):
            while number == self._asked and not self._place.is_deleted:
                plan = await self._visit.rest.post("/v1/attune/plans", body)
                if number != self._asked or self._place.is_deleted:
                    return
                if plan["status"] == "ready":
                    before, self._plan = self._plan, plan
                    self._show(plan, before)
                    return
                await asyncio.sleep(ASK_AGAIN_S)

    def _show(self, plan: Json, before: Json | None) -> None:
        self._place.clear()
        with self._place:
            facts([(name, value) for name, value in _figures(plan).items() if value])
            change = "" if before is None else _change(_figures(before), _figures(plan))
            text("p", change, "effect small")
            for worker in plan["workers"]:
                _worker(worker)
            if not plan["workers"]:
                notice("No worker is running now. The job waits until one starts.", "warning")
            with tag("details", "fold"):
                text("summary", "Every value, and why")
                with tag("dl", "reasons"):
                    for name, reason in plan["reasons"].items():
                        text("dt", name.replace("_", " ").replace(".", " "))
                        text("dd", reason)
                    text("dt", "Beside the simple table")
                    text("dd", _beside_the_table(plan))


def _figures(plan: Json) -> dict[str, str]:
    fitting = [worker for worker in plan["workers"] if worker["fits"]]
    memory = min((worker["required_bytes"] for worker in fitting or plan["workers"]), default=None)
    share = plan["trainable_share"]
    return {
        "Training takes": "" if plan["takes_s"] is None else lasting(plan["takes_s"]),
        "Starts": "" if plan["starts_in_s"] is None else _starts(plan["starts_in_s"]),
        "Steps": str(plan["total_steps"]),
        "Tokens": short_count(plan["trained_tokens"]),
        "Trainable": f"{short_count(plan['trainable_parameters'])}" + (f" ({share:.2%})" if share else ""),
        "Memory": "" if memory is None else short_bytes(memory),
        "Cost": "" if plan["cost"] is None else f"{plan['cost']:.2f}",
    }


def _change(before: dict[str, str], now: dict[str, str]) -> str:
    changed = [f"{name.lower()} {before[name]} → {now[name]}" for name in now if before[name] != now[name]]
    return f"The last change: {', '.join(changed)}." if changed else ""


def _starts(seconds: float) -> str:
    return "at once" if seconds < 1 else f"in about {lasting(seconds)}"


def _worker(worker: Json) -> None:
    kind = "good" if worker["fits"] else "bad"
    with tag("div", "row"):
        text("span", "fits" if worker["fits"] else "does not fit", f"state {kind}")
        text("span", f"{worker['worker']}: {worker['why']}", "small")


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
