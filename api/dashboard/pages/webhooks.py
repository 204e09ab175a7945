"""Webhooks: which of your servers is told of what. The secret is shown once."""

from __future__ import annotations

from fastapi import Request
from nicegui import ui

from api.dashboard.blocks import button, card, link, notice, refusals_in, skeleton, tag, text
from api.dashboard.dialogs import show_secret
from api.dashboard.fields import CheckGroup, text_field
from api.dashboard.frame import frame
from api.dashboard.rest import Json
from api.dashboard.visit import Visit, visit_of

USUAL = ("fine_tuning.job.succeeded", "fine_tuning.job.failed", "fine_tuning.job.cancelled")
KEEP = "Copy the signing secret now: nothing can show it again. Your server verifies with it what comes."


@ui.page("/webhooks", response_timeout=30)
async def webhooks_page(request: Request) -> None:
    visit = visit_of(request)
    with frame(visit, "Webhooks", active="Webhooks"):
        place = tag("div", "stack wide-gap")
        with place, refusals_in(place):
            kinds: list[str] = (await visit.rest.get("/v1/attune/webhook_event_types"))["data"]
            await Endpoints(visit, kinds).load()


class Endpoints:
    def __init__(self, visit: Visit, kinds: list[str]) -> None:
        self._visit = visit
        with card("Endpoints", note="signed after Standard Webhooks"):
            self._list = tag("div", "stack")
            with self._list:
                skeleton(3)
        if visit.may("write"):
            with card("A new endpoint"):
                with tag("div", "columns"):
                    self._name = text_field("Name", attributes='maxlength="64" placeholder="for example: my server"')
                    self._url = text_field(
                        "Address",
                        attributes='type="url" inputmode="url" placeholder="https://example.com/hooks/attune"',
                    )
                self._kinds = CheckGroup("It is told of", [(kind, spoken(kind)) for kind in kinds], USUAL)
                self._problem = tag("div").props('aria-live="polite"')
                with tag("div", "row"):
                    button("Add the endpoint", self._add, kind="primary")

    async def load(self) -> None:
        with refusals_in(self._list):
            endpoints = await self._visit.rest.every("/v1/attune/webhook_endpoints")
            self._list.clear()
            with self._list:
                if not endpoints:
                    words = "None yet: no server of yours is told when a job ends."
                    text("p", words + (" Add its address below." if self._visit.may("write") else ""), "quiet")
                for endpoint in endpoints:
                    _row(endpoint)

    async def _add(self) -> None:
        self._problem.clear()
        with self._problem:
            for value, missing in (
                (self._name.value.strip(), "Give it a name."),
                (self._url.value.strip(), "Give its address, such as https://example.com/hooks/attune."),
                (self._kinds.chosen, "Choose at least one event."),
            ):
                if not value:
                    notice(missing, "error")
                    return
        body: Json = {
            "name": self._name.value.strip(),
            "url": self._url.value.strip(),
            "event_types": self._kinds.chosen,
        }
        with refusals_in(self._problem):
            made = await self._visit.rest.post("/v1/attune/webhook_endpoints", body)
            with self._problem:
                show_secret("Signing secret", KEEP, made["signing_secret"])
            await self.load()


def _row(endpoint: Json) -> None:
    with link(f"/webhooks/{endpoint['id']}", "list-row"):
        with tag("div", "stack tight"):
            text("span", endpoint["name"], "strong break")
            text("span", endpoint["url"], "quiet small break")
        endpoint_state(endpoint)


def endpoint_state(endpoint: Json) -> None:
    ours = endpoint["attune"]
    if not ours["enabled"]:
        text("span", "Disabled", "state bad")
    elif ours["failures"]:
        text("span", f"{ours['failures']} failed in a row", "state waiting")
    else:
        text("span", "Enabled", "state good")


def spoken(kind: str) -> str:
    """fine_tuning.job.succeeded: a job succeeded."""
    words = kind.removeprefix("fine_tuning.").replace(".", " ").replace("_", " ")
    return f"{words[:1].upper()}{words[1:]}"
