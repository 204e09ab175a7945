"""What the endpoints stand on: one database, one store, one HTTP client, opened with the app and closed with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, cast

import httpx
from fastapi import Depends, Request

from api.beside.background import Background
from api.beside.webhook_sender import Sender
from api.gate.recent import Recent
from api.metrics import Requests
from api.together.creates import Creates
from api.together.listeners import Listeners
from api.together.looks import Looks
from core.access.projects import Principal
from core.access.rates import Rates
from core.db import Database
from core.errors import AttuneError
from core.settings import Settings
from core.store.storage import Storage


@dataclass(frozen=True)
class Parts:
    settings: Settings
    database: Database
    storage: Storage
    http: httpx.AsyncClient  # to the generation servers
    serve_token: str  # what our own servers ask for
    requests: Requests
    sender: Sender  # of webhooks
    rates: Rates
    listeners: Listeners
    looks: Looks
    creates: Creates
    recent: Recent  # who was asking a moment ago
    background: Background | None  # None: this process answers requests and does nothing beside them

    def poke(self) -> None:
        """A job was created: have its files validated."""
        if self.background is not None:
            self.background.poke()

    def poke_workers(self) -> None:
        """A job was queued: have a worker look."""
        if self.background is not None:
            self.background.poke_workers()

    def poke_webhooks(self) -> None:
        """A delivery is due now."""
        if self.background is not None:
            self.background.poke_webhooks()


def concerns(request: Request, project_id: str) -> None:
    """Say which project a call is about, for the audit log, where it is not the caller's own."""
    request.state.concerned_project = project_id


def parts_of(request: Request) -> Parts:
    return cast(Parts, request.app.state.parts)


def principal_of(request: Request) -> Principal:
    """Whom `api.gate.auth` found before the body was read. Raises the 401 of a path that it does not guard."""
    principal = request.scope.get("state", {}).get("principal")
    if not isinstance(principal, Principal):
        raise AttuneError("This needs an API key.", code="invalid_api_key", status=401)
    return principal


async def _parts(request: Request) -> Parts:  # async: a plain function would cost a trip to a thread
    return parts_of(request)


async def _caller(request: Request) -> Principal:
    return principal_of(request)


async def _operator(request: Request) -> Principal:
    principal = principal_of(request)
    if not principal.is_operator:
        raise AttuneError(
            "This is for operators: use an operator's key (`attune keys create --operator`).",
            code="operator_required",
            status=403,
        )
    return principal


Within = Annotated[Parts, Depends(_parts)]
Caller = Annotated[Principal, Depends(_caller)]
Operator = Annotated[Principal, Depends(_operator)]
