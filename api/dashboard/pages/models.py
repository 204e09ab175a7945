"""The models that can be asked: what was trained here, other names for it, and the bases that it stands on."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import Request
from nicegui import ui

from api.dashboard.bases import short_count
from api.dashboard.blocks import button, card, empty, link, notice, refusals_in, skeleton, tag, text
from api.dashboard.dialogs import confirm
from api.dashboard.fields import choice_field, text_field
from api.dashboard.frame import frame
from api.dashboard.pages.jobs import when
from api.dashboard.rest import Json, in_path
from api.dashboard.visit import Visit, visit_of


@ui.page("/models", response_timeout=30)
async def models_page(request: Request) -> None:
    visit = visit_of(request)
    with frame(visit, "Models", active="Models", wide=True):
        place = tag("div", "stack wide-gap")
        with place:
            skeleton(6)
        with refusals_in(place):
            models: list[Json] = (await visit.rest.get("/v1/models"))["data"]
            place.clear()
            with place:
                _trained(visit, [one for one in models if one["attune"]["kind"] != "base"])
                if any(one["attune"]["kind"] != "base" for one in models):
                    await Aliases(visit, models).load()
                _bases([one for one in models if one["attune"]["kind"] == "base"])


def _trained(visit: Visit, models: list[Json]) -> None:
    finals = [one for one in models if one["attune"]["kind"] == "fine_tuned"]
    checkpoints = [one for one in models if one["attune"]["kind"] == "checkpoint"]
    if not models:
        empty(
            "No model of your own yet",
            "A finished job leaves one here: to ask, to compare and to download.",
            ("Train a model", "/new") if visit.may("write") else None,
        )
        return
    with tag("div", "job-list short"):
        for one in finals:
            _row(one, [other for other in checkpoints if other["attune"]["job"] == one["attune"]["job"] is not None])
        jobs = {one["attune"]["job"] for one in finals}
        for one in checkpoints:
            if one["attune"]["job"] is None or one["attune"]["job"] not in jobs:
                _row(one, [])


def _row(model: Json, checkpoints: Sequence[Json]) -> None:
    ours = model["attune"]
    with link(f"/models/{in_path(model['id'])}", "job-row"):
        with tag("div", "stack tight"):
            text("span", name_of(model["id"]), "strong cut")
            text("span", f"{ours['base_model']} · {when(model['created'])}", "quiet small cut")
        with tag("div", "job-progress"):
            loss = (ours["proof"] or {}).get("validation_loss_server")
            if loss is not None:
                text("span", f"validation loss {loss:.3f}", "quiet small number")
            if checkpoints:
                count = len(checkpoints)
                text("span", f"and {count} checkpoint{'s' if count > 1 else ''}", "quiet small")
        if ours["shared"]:
            text("span", "Shared with you", "state off")
        elif ours["kind"] == "checkpoint":
            text("span", f"Step {ours['step']}", "state off")
        else:
            text("span", "Ready", "state good")


def name_of(model: str) -> str:
    """What a person called it: ft:base:project:name:id, and with a checkpoint :ckpt-step-n."""
    parts = model.split(":")
    if parts[0] != "ft" or len(parts) < 5:
        return model
    step = f", step {parts[5].removeprefix('ckpt-step-')}" if len(parts) > 5 else ""
    return f"{parts[3] or 'unnamed'} ({parts[4]}{step})"


def _bases(bases: list[Json]) -> None:
    ready = [base for base in bases if base["attune"]["status"] == "ready"]
    others = [base for base in bases if base["attune"]["status"] != "ready"]
    with card("Base models", note="what training starts from"):
        if not bases:
            notice("None is there yet. An operator adds one: attune models add Qwen/Qwen3-0.6B", "warning")
        if ready:
            _base_list(ready)
        if others:
            with tag("details", "fold"):
                text("summary", f"{len(others)} {'more ' if ready else ''}that are fetched when first used")
                _base_list(others)


def _base_list(bases: list[Json]) -> None:
    with tag("ul", "stack plain-list"):
        for base in bases:
            ours = base["attune"]
            words = [f"{short_count(ours['parameters'])} parameters"] if ours["parameters"] else []
            words += [f"{ours['context_tokens']} tokens of context"] if ours["context_tokens"] else []
            words += [ours["licence"]] if ours["licence"] else []
            with tag("li", "row between"):
                link(f"/models/{in_path(base['id'])}", "strong break", label=base["id"])
                text("span", " · ".join(words), "quiet small")


class Aliases:
    """Other names that models answer to: code asks for one, and what stands behind it can change."""

    def __init__(self, visit: Visit, models: list[Json]) -> None:
        self._visit = visit
        self._options = [(one["id"], one["id"]) for one in models]
        with card("Other names", note="code asks for the name; what answers can change"):
            self._list = tag("div", "stack")
            if visit.may("write"):
                with tag("div", "form-row"):
                    self._name = text_field("New name", attributes='placeholder="for example: tickets"')
                    self._model = choice_field("Answers as", self._options, value=self._options[0][0])
                    button("Add the name", self._add)

    async def load(self) -> None:
        with refusals_in(self._list):
            aliases = await self._visit.rest.every("/v1/attune/aliases")
            self._list.clear()
            with self._list:
                if not aliases:
                    text("p", "No model has another name yet.", "quiet")
                for alias in aliases:
                    self._row(alias)

    def _row(self, alias: Json) -> None:
        with tag("div", "row between"):
            with tag("div", "stack tight"):
                text("code", alias["id"], "strong break")
                text("span", f"answers as {alias['model']}", "quiet small break")
                if not alias["usable"]:
                    text("span", "That model is gone: requests for this name are refused.", "problem")
            if self._visit.may("write"):
                button(f"Remove {alias['id']}", lambda: self._confirm(alias["id"]), kind="text")

    def _confirm(self, alias: str) -> None:
        async def remove() -> None:
            await self._visit.rest.delete(f"/v1/attune/aliases/{in_path(alias)}")
            await self.load()

        words = "Requests that give this name are refused from then on. The model stays."
        confirm(f"Remove the name {alias}?", words, "Remove it", remove)

    async def _add(self) -> None:
        body = {"id": self._name.value.strip(), "model": self._model.value}
        await self._visit.rest.post("/v1/attune/aliases", body)
        await self.load()
