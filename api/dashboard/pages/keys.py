"""Keys: made and shown once, with what they may do and until when; revoked."""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import Request
from nicegui import ui

from api.dashboard.blocks import button, card, empty, notice, refusals_in, skeleton, tag, text
from api.dashboard.dialogs import confirm, show_secret
from api.dashboard.fields import CheckGroup, choice_field, text_field
from api.dashboard.frame import frame
from api.dashboard.pages.jobs import when
from api.dashboard.rest import Json, in_path
from api.dashboard.visit import Visit, visit_of

SCOPES = (
    ("read", "Read: look at everything, and download it"),
    ("write", "Write: upload, train, delete"),
    ("inference", "Inference: ask models"),
    ("admin", "Admin: keys, sharing, the audit log"),
)
DAY_S = 86_400
LIFETIMES = (("", "Never"), ("7", "In a week"), ("30", "In 30 days"), ("90", "In 90 days"), ("365", "In a year"))


@ui.page("/keys", response_timeout=30)
async def keys_page(request: Request) -> None:
    visit = visit_of(request)
    with frame(visit, "Keys", active="Keys"):
        if not visit.may("admin"):
            empty("This key cannot manage keys", "Ask an admin of the project for a key with the scope “admin”.")
            return
        await Keys(visit).load()


class Keys:
    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        with card("A new key", note="it may do no more than its work needs"):
            with tag("div", "columns"):
                self._name = text_field("Name", help="Who or what uses it.", attributes='maxlength="64"')
                self._days = choice_field("It expires", LIFETIMES)
            self._scopes = CheckGroup("It may", SCOPES, ("read", "write", "inference"))
            self._problem = tag("div").props('aria-live="polite"')
            with tag("div", "row"):
                button("Make the key", self._make, kind="primary")
        with card("Keys of this project" if not visit.is_operator else "All keys"):
            self._list = tag("div", "stack")
            with self._list:
                skeleton(4)

    async def load(self) -> None:
        with refusals_in(self._list):
            keys: list[Json] = (await self._visit.rest.get("/v1/attune/keys"))["data"]
            self._list.clear()
            with self._list:
                for key in keys:
                    self._row(key)

    def _row(self, key: Json) -> None:
        with tag("div", "row between key-row"):
            with tag("div", "stack tight"):
                with tag("div", "row"):
                    text("span", key["name"], "strong break")
                    if key["id"] == self._visit.key_id:
                        text("span", "yours", "state good")
                text("code", f"{key['prefix']}…", "small quiet")
                text("span", _words(key), "quiet small")
            if key["id"] != self._visit.key_id:
                button(f"Revoke {key['name']}", lambda: self._confirm(key), kind="text")

    def _confirm(self, key: Json) -> None:
        async def revoke() -> None:
            await self._visit.rest.delete(f"/v1/attune/keys/{in_path(key['id'])}")
            await self.load()

        words = "Whatever uses it is refused from the next request on, and whoever is signed in with it is signed out."
        confirm(f"Revoke {key['name']}?", words, "Revoke the key", revoke)

    async def _make(self) -> None:
        self._problem.clear()
        with self._problem:
            if not self._name.value.strip():
                notice("Give it a name: it is how you will know it again.", "error")
                return
            if not self._scopes.chosen:
                notice("Choose at least one thing that it may do.", "error")
                return
        body: Json = {"name": self._name.value.strip(), "scopes": self._scopes.chosen}
        if self._days.value:
            body["expires_in_s"] = int(self._days.value) * DAY_S
        with refusals_in(self._problem):
            made = await self._visit.rest.post("/v1/attune/keys", body)
            with self._problem:
                show_secret("The new key", "Copy it now: nothing can show it again.", made["key"])
            await self.load()


def _words(key: Json) -> str:
    may = "operator: may do everything" if key["is_operator"] else f"may {', '.join(key['scopes'])}"
    used = "never used" if key["last_used_at"] is None else f"used {when(key['last_used_at'])}"
    if key["expires_at"] is None:
        return f"{may} · {used}"
    return f"{may} · {used} · expires {datetime.fromtimestamp(key['expires_at'], UTC):%d %B %Y}"
