"""One webhook endpoint: what it is told of, a test, its secret anew, and the log of deliveries."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from fastapi import Request
from nicegui import ui

from api.dashboard.blocks import button, card, copyable, facts, link, notice, refusals_in, tag, tell, text
from api.dashboard.dialogs import confirm, show_secret
from api.dashboard.fields import choice_field
from api.dashboard.frame import frame
from api.dashboard.pages.jobs import when
from api.dashboard.pages.webhooks import KEEP, endpoint_state, spoken
from api.dashboard.rest import Json, Refused, in_path
from api.dashboard.visit import Visit, visit_of

REFRESH_S = 3.0
MOST = 50  # newest deliveries that are listed
_STATES = {"delivered": ("good", "Delivered"), "pending": ("waiting", "Pending"), "failed": ("bad", "Failed")}


@ui.page("/webhooks/{endpoint_id}", response_timeout=30)
async def webhook_page(request: Request, endpoint_id: str) -> None:
    visit = visit_of(request)
    try:
        endpoint = await visit.rest.get(f"/v1/attune/webhook_endpoints/{in_path(endpoint_id)}")
    except Refused as refused:
        with frame(visit, "Webhook", active="Webhooks"):
            notice(refused.message, "error")
            link("/webhooks", "button plain", label="All webhooks")
        return
    with frame(visit, endpoint["name"], active="Webhooks") as head:
        await Endpoint(visit, endpoint, head).load()


class Endpoint:
    def __init__(self, visit: Visit, endpoint: Json, head: ui.element) -> None:
        self._visit = visit
        self._endpoint = endpoint
        self._path = f"/v1/attune/webhook_endpoints/{in_path(endpoint['id'])}"
        self._deliveries: list[Json] | None = None
        with head:
            self._head = tag("div", "row")
        self._about = tag("div", "stack")
        if visit.may("write"):
            with card("Send a test", note="a sample event, once, now"):
                kinds = [(kind, spoken(kind)) for kind in endpoint["event_types"]]
                with tag("div", "form-row"):
                    self._kind = choice_field("Event", kinds, value=kinds[0][0])
                    button("Send it", self._test)
                self._outcome = tag("div").props('aria-live="polite"')
        with card("Deliveries", note="newest first, kept for 30 days"):
            self._log = tag("div", "stack")
        self._show()
        ui.timer(REFRESH_S, self.load, immediate=False)

    async def load(self) -> None:
        with refusals_in(self._log):
            found: list[Json] = (await self._visit.rest.get(f"{self._path}/deliveries", limit=MOST))["data"]
            if found == self._deliveries:
                return
            self._deliveries = found
            self._log.clear()
            with self._log:
                if not found:
                    text("p", "Nothing has been sent yet. It begins with the next job.", "quiet")
                for delivery in found:
                    self._row(delivery)

    def _show(self) -> None:
        endpoint, ours = self._endpoint, self._endpoint["attune"]
        self._head.clear()
        with self._head:
            endpoint_state(endpoint)
            if self._visit.may("write"):
                if ours["enabled"]:
                    button("Disable", lambda: self._switch(on=False))
                else:
                    button("Enable", lambda: self._switch(on=True), kind="primary")
                button("New secret", self._confirm_rotation)
                button("Delete", self._confirm_deletion, kind="danger")
        self._about.clear()
        with self._about, card():
            if ours["disabled_reason"]:
                notice(ours["disabled_reason"], "warning")
            facts(
                [
                    ("Address", endpoint["url"]),
                    ("Told of", ", ".join(spoken(kind).lower() for kind in endpoint["event_types"])),
                    ("Secret", f"ends in {endpoint['signing_secret_hint'][-4:]}"),
                    ("Added", when(endpoint["created_at"])),
                ]
            )

    def _row(self, delivery: Json) -> None:
        kind, word = _STATES[delivery["status"]]
        with tag("details", "fold delivery"):
            with tag("summary"), tag("span", "delivery-head"):
                text("span", spoken(delivery["event"]["type"]), "strong")
                text("span", when(delivery["created_at"]), "quiet small")
                text("span", word, f"state {kind}")
            with tag("div", "stack"):
                with tag("ol", "stack plain-list"):
                    for attempt in delivery["attempts"]:
                        text("li", _attempt(attempt), "small break")
                copyable(_readable(delivery["event"]), "What was sent")
                if self._visit.may("write"):
                    with tag("div", "row"):
                        button("Send it again", lambda: self._redeliver(delivery["id"]))

    async def _redeliver(self, delivery_id: str) -> None:
        await self._visit.rest.post(f"{self._path}/deliveries/{in_path(delivery_id)}/redeliver")
        tell("It is sent again.")
        await self.load()

    async def _test(self) -> None:
        self._outcome.clear()
        with refusals_in(self._outcome):
            answer = await self._visit.rest.post(f"{self._path}/test", {"event_type": self._kind.value})
            with self._outcome:
                is_taken = 200 <= answer["status_code"] < 300
                words = f"Your server answered with {answer['status_code']}"
                notice(
                    f"{words}." if is_taken else f"{words}; only a 2xx counts as delivered.",
                    "good" if is_taken else "warning",
                )

    async def _switch(self, *, on: bool) -> None:
        self._endpoint = await self._visit.rest.post(self._path, {"attune": {"enabled": on}})
        self._show()

    def _confirm_rotation(self) -> None:
        async def rotate() -> None:
            body = {"keep_old_secret_active_for_24_hours": True}
            self._endpoint = await self._visit.rest.post(f"{self._path}/rotate_secret", body)
            with self._about:
                show_secret("Signing secret", KEEP, self._endpoint.pop("signing_secret"))

        words = "Deliveries carry the old and the new signature for a day, so that your server can change over."
        confirm("Make a new signing secret?", words, "Make a new one", rotate)

    def _confirm_deletion(self) -> None:
        async def delete() -> None:
            await self._visit.rest.delete(self._path)
            ui.navigate.to("/webhooks")

        confirm("Delete this endpoint?", "Nothing is sent to it any more, and its log is gone.", "Delete it", delete)


def _attempt(attempt: Json) -> str:
    at = datetime.fromtimestamp(attempt["at"], UTC)
    outcome = f"HTTP {attempt['status_code']}" if attempt["status_code"] is not None else attempt["error"]
    return f"{at:%d %b %H:%M:%S} UTC, {attempt['seconds']:.1f} s: {outcome}"


def _readable(event: Json) -> str:
    return json.dumps(event, indent=2, ensure_ascii=False)
