"""The plan of a job against what happened. Figures that move while it runs are changed where they stand."""

from __future__ import annotations

from nicegui import ui
from nicegui.elements.mixins.text_element import TextElement

from api.dashboard.bases import short_bytes, short_count
from api.dashboard.blocks import card, facts, tag, text
from api.dashboard.plan_panel import lasting
from api.dashboard.reasons import show_reasons
from api.dashboard.rest import Json


class PlanCard:
    """Empty until the job is planned; `show` may be called as often as one likes."""

    def __init__(self) -> None:
        self._place = tag("div")
        self._facts: ui.element | None = None
        self._values: dict[str, TextElement] = {}

    def show(self, job: Json) -> None:
        if job["attune"]["plan"] is None or job["attune"]["resolved"] is None:
            return
        place = self._facts = self._facts or self._build(job)
        figures = _figures(job)
        if figures.keys() != self._values.keys():
            place.clear()
            with place:
                self._values = facts(list(figures.items()))
        for name, value in figures.items():
            self._values[name].text = value

    def _build(self, job: Json) -> ui.element:
        with self._place, card("Plan and outcome"):
            place = tag("div")
            with tag("details", "fold"):
                text("summary", "Why these values")
                show_reasons(job["attune"]["resolved"], job["attune"]["reasons"] or {})
        return place


def _figures(job: Json) -> dict[str, str]:
    plan, resolved, run = job["attune"]["plan"], job["attune"]["resolved"], job["attune"]["run"]
    done = job["attune"]["progress"]["step"]
    figures = {"Steps": f"{resolved['total_steps']:,} planned, {done:,} done"}
    if "training_tokens" in plan:
        trained = "" if job["trained_tokens"] is None else f", {short_count(job['trained_tokens'])} trained"
        figures["Tokens"] = f"{short_count(plan['training_tokens'] * resolved['n_epochs'])} planned{trained}"
    if run is not None:
        figures["Memory"] = _memory(run)
        figures |= _time(run)
    elif "memory_bytes" in plan:
        figures["Needs a worker of"] = f"{short_bytes(sum(plan['memory_bytes'].values()))} at least"
    if "trainable_parameters" in plan:
        figures["Trainable"] = f"{short_count(plan['trainable_parameters'])} parameters"
    figures["Learning rate"] = f"{resolved['learning_rate']:g}"
    if (lora := resolved["lora"]) is not None:
        figures["Rank"] = str(lora["rank"])
        figures["Scale"] = f"{lora['scale']:g}x (alpha {lora['scale'] * lora['rank']:g})"
    return {**figures, "Epochs": str(resolved["n_epochs"]), "Batch size": str(resolved["batch_size"])}


def _memory(run: Json) -> str:
    """Both figures of the same thing: what a GPU's driver takes for itself is planned, and seen by nobody."""
    parts: dict[str, int] = run["planned_memory_bytes"]
    unseen = parts.get("runtime", 0) if run["device"].startswith("cuda") else 0
    words = f"{short_bytes(sum(parts.values()) - unseen)} planned"
    if run["peak_memory_bytes"] is not None:
        words += f", {short_bytes(run['peak_memory_bytes'])} at the peak"
    return words + (f" (and {short_bytes(unseen)} for the GPU's driver)" if unseen else "")


def _time(run: Json) -> dict[str, str]:
    """Of training and validation alone; nothing is planned on the first worker of a kind."""
    planned = [] if run["planned_s"] is None else [f"{lasting(run['planned_s'])} planned"]
    taken = [f"{lasting(run['trained_s'])} taken"] if run["trained_s"] else []
    return {"Time": ", ".join([*planned, *taken])} if planned or taken else {}
