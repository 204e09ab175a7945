"""Workers and servers: who is there, with how much memory, and what each holds and does. For operators."""

from __future__ import annotations

from fastapi import Request
from nicegui import ui

from api.dashboard.bases import short_bytes
from api.dashboard.blocks import button, card, empty, facts, link, refusals_in, skeleton, tag, text
from api.dashboard.dialogs import confirm
from api.dashboard.fields import choice_field, text_field
from api.dashboard.frame import frame
from api.dashboard.pages.jobs import when
from api.dashboard.rest import Json, in_path
from api.dashboard.visit import Visit, visit_of

REFRESH_S = 3.0
EXTERNAL = "external"  # the device of a server that an operator added


@ui.page("/workers", response_timeout=30)
async def workers_page(request: Request) -> None:
    visit = visit_of(request)
    with frame(visit, "Workers and servers", active="Workers"):
        if not visit.is_operator:
            empty("This is for operators", "Whoever runs this place sees its machines here.")
            return
        place = tag("div", "stack wide-gap")
        with place, refusals_in(place):
            bases: list[Json] = (await visit.rest.get("/v1/attune/base_models"))["data"]
            await Machines(visit, bases).load()


class Machines:
    def __init__(self, visit: Visit, bases: list[Json]) -> None:
        self._visit = visit
        self._seen: tuple[list[Json], list[Json]] | None = None
        with card("Workers", note="they train"):
            self._workers = tag("div", "stack")
            with self._workers:
                skeleton(3)
        with card("Servers", note="they answer"):
            self._servers = tag("div", "stack")
            with self._servers:
                skeleton(2)
            if bases:
                with tag("details", "fold"):
                    text("summary", "Add a server")
                    with tag("div", "stack"):
                        words = "Any server that speaks OpenAI's API, such as vLLM, for one base and its models."
                        text("p", words, "quiet small")
                        with tag("div", "form-row"):
                            self._id = text_field("Name", attributes='placeholder="for example: vllm-1"')
                            self._address = text_field("Address", attributes='placeholder="http://10.0.0.7:8000"')
                            options = [(base["id"], base["id"]) for base in bases]
                            self._base = choice_field("Base", options, value=options[0][0])
                            button("Add it", self._add)
        ui.timer(REFRESH_S, self.load, immediate=False)

    async def load(self) -> None:
        with refusals_in(self._workers):
            workers: list[Json] = (await self._visit.rest.get("/v1/attune/workers"))["data"]
            servers: list[Json] = (await self._visit.rest.get("/v1/attune/servers"))["data"]
            if (workers, servers) == self._seen:
                return
            self._seen = (workers, servers)
            self._workers.clear()
            with self._workers:
                if not workers:
                    text("p", "None is there: jobs wait. Start one with “attune up”, or with Celery.", "quiet")
                for worker in workers:
                    _worker(worker)
            self._servers.clear()
            with self._servers:
                if not servers:
                    text("p", "None is there: models cannot be asked. Start one with “attune up”.", "quiet")
                for server in servers:
                    self._server(server)

    def _server(self, server: Json) -> None:
        with tag("div", "machine"):
            with tag("div", "row between"):
                text("span", server["id"], "strong break")
                if server["device"] == EXTERNAL:
                    button(f"Remove {server['id']}", lambda: self._confirm(server["id"]), kind="text")
                else:
                    text("span", "Answering", "state good")
            facts(
                [
                    ("Serves", server["base_model"] or "every base"),
                    ("Address", server["address"]),
                    ("Device", "of your own" if server["device"] == EXTERNAL else server["device"]),
                    ("Since", when(server["started_at"])),
                ]
            )

    def _confirm(self, server_id: str) -> None:
        async def remove() -> None:
            await self._visit.rest.delete(f"/v1/attune/servers/{in_path(server_id)}")
            await self.load()

        words = "Requests are not sent to it any more. The server itself goes on running."
        confirm(f"Remove {server_id}?", words, "Remove the server", remove)

    async def _add(self) -> None:
        body = {
            "id": self._id.value.strip(),
            "address": self._address.value.strip(),
            "base_model": self._base.value,
        }
        await self._visit.rest.post("/v1/attune/servers", body)
        await self.load()


def _worker(worker: Json) -> None:
    with tag("div", "machine"):
        with tag("div", "row between"):
            text("span", worker["id"], "strong break")
            is_busy = worker["job"] is not None
            text("span", worker["state"].replace("_", " ").capitalize(), f"state {'running' if is_busy else 'good'}")
        facts(
            [
                ("Device", worker["device_name"] or worker["device"]),
                ("Memory", short_bytes(worker["memory_bytes"])),
                ("Holds", worker["resident_base"] or "no base yet"),
                ("Labels", ", ".join(worker["labels"]) or "none"),
                ("Host", worker["host"]),
                ("Since", when(worker["started_at"])),
            ]
        )
        with tag("div", "row"):
            if is_busy:
                link(f"/jobs/{worker['job']}", "small", label="The job it works at")
            text("span", ", ".join(f"{name} {one}" for name, one in worker["versions"].items()), "quiet small break")
