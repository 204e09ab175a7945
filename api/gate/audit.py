"""The audit log: its route, and the layer that writes it.

A call's row is written before its answer goes out, so that no client knows of a change that the log does not: by
the layer, or by the route itself in the transaction that makes the change (`Log`).
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, cast

import structlog
from anyio import to_thread
from fastapi import APIRouter, Depends, Query, Request
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.gate.access import Route
from api.parts import Caller, Parts, Within
from api.shapes.wire import Page, Shown, ends
from core.access import audit
from core.access.audit import Call
from core.access.projects import Principal
from core.db import Database
from core.errors import AttuneError
from core.models import AuditEntry

log = structlog.get_logger()
router = APIRouter(prefix="/v1/attune/audit_log", tags=["attune"])
_READ_FOR_ID = 1024 * 1024  # bytes of an answer
_ID_LENGTH = 256
_DONE = 200
_TOO_MANY = 429  # changed nothing, and must cost nothing


class AuditObject(Shown):
    id: str
    object: Literal["attune.audit_log.entry"] = "attune.audit_log.entry"
    created_at: int
    project_id: str
    key_id: str
    key_name: str
    is_operator: bool
    method: str
    route: str
    object_id: str | None  # what was made, changed or deleted
    status: int
    request_id: str


class AuditList(Page[AuditObject]):
    pass


def _show(row: AuditEntry) -> AuditObject:
    return AuditObject(
        id=row.id,
        created_at=int(row.created_at),
        project_id=row.project_id,
        key_id=row.key_id,
        key_name=row.key_name,
        is_operator=row.is_operator,
        method=row.method,
        route=row.route,
        object_id=row.object_id,
        status=row.status,
        request_id=row.request_id,
    )


@router.get("")
def list_audit_log(
    caller: Caller,
    parts: Within,
    project_id: Annotated[str | None, Query(max_length=64)] = None,
    after: Annotated[str | None, Query(max_length=128)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> AuditList:
    """Every call that may have changed something, newest first: of the caller's project, or for operators of all."""
    asked = caller.managed(project_id)
    with parts.database.read() as session:
        rows, has_more = audit.page(session, asked, after=after, limit=limit)
    data = [_show(row) for row in rows]
    return AuditList(data=data, **ends(data), has_more=has_more)


class Audited:
    """`app`, with a row in the log for the one request of `scope`."""

    def __init__(self, app: ASGIApp, parts: Parts, principal: Principal, route: Route, scope: Scope) -> None:
        self._app = app
        self._parts = parts
        self._principal = principal
        self._route = route
        self._state = cast(dict[str, Any], scope["state"])
        self._state["audited"] = self
        self._held: Message | None = None  # the answer's head, until its body has told the id
        self._is_noted = False
        self._is_written = False

    def done(self, object_id: str) -> Call:
        """The row, for the route to write with what the call does to `object_id`: one commit for both, and none
        without the other.

        It says that the call was answered with 200. Whatever else is answered has a row of its own, as always.
        """
        self._is_noted = True
        return self._call(_DONE, object_id)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_after_row(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._held = message
                return
            if self._held is not None:
                held, self._held = self._held, None
                status = cast(int, held["status"])
                if not (self._is_noted and status == _DONE):
                    await self._write(status, _made(held, message))
                await send(held)
            await send(message)

        try:
            await self._app(scope, receive, send_after_row)
        except ClientDisconnect:
            await self._write(499, None)
            raise
        except Exception:
            await self._write(500, None)
            raise

    def _call(self, status: int, made: str | None) -> Call:
        object_id = self._route.object_id or made
        return Call(
            principal=self._principal,
            project_id=self._state.get("concerned_project", self._principal.project_id),
            method=self._route.method,
            route=self._route.pattern,
            object_id=object_id[:_ID_LENGTH] if object_id else None,
            status=status,
            request_id=self._state["request_id"],
        )

    async def _write(self, status: int, made: str | None) -> None:
        if self._is_written or status == _TOO_MANY:
            return
        self._is_written = True
        call = self._call(status, made)
        try:
            await to_thread.run_sync(_record, self._parts.database, call)
        except AttuneError as error:
            # what was done is done, and a 503 would have it done twice: the process's own log keeps the call
            log.error("audit_row_lost", error=error.message, call=call)


async def _audited(request: Request) -> Audited:
    return cast(Audited, request.scope["state"]["audited"])


Log = Annotated[Audited, Depends(_audited)]


def _record(database: Database, call: Call) -> None:
    with database.begin() as session:
        audit.record(session, [call])


def _made(start: Message, body: Message) -> str | None:
    """The id of what a call made, out of its answer."""
    content: bytes = body.get("body", b"")
    kind = dict(start.get("headers", [])).get(b"content-type", b"")
    if start["status"] != 200 or not kind.startswith(b"application/json") or len(content) > _READ_FOR_ID:
        return None
    try:
        answer = json.loads(content)
    except ValueError:  # the first piece of several
        return None
    made = cast(dict[str, Any], answer).get("id") if isinstance(answer, dict) else None
    return made if isinstance(made, str) else None
