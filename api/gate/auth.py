"""Who is asking, may they, and is the body one that we take? Settled from the headers, before a byte of the body is
read.

(A FastAPI dependency comes too late: an upload's form is read before it runs.) A refusal closes the connection.
"""

from __future__ import annotations

import re
from typing import cast

from anyio import to_thread
from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.errors import error_response
from api.gate import access
from api.gate.admission import REFUSED, overloaded
from api.gate.audit import Audited
from api.gate.body import Body, Pace, too_large
from api.parts import Parts
from core import ids
from core.access import embeds, projects, sign_ins, tenancy
from core.access.projects import Principal
from core.db import Database
from core.errors import AttuneError
from core.files.uploads import MAX_PART_BYTES
from core.settings import Settings

GUARDED = "/v1/"
OURS = "/v1/attune/"  # keys, sessions, projects and their limits are below it
FILE_PATH = "/v1/files"
OPENS_SESSION = "/v1/attune/sessions"
DASHBOARD_UPLOAD = "/dashboard/files"
PART_PATH = re.compile(r"/v1/uploads/[^/]+/parts")
FORM_BYTES = 1024 * 1024  # of an upload's form beside the file itself


class Gate:
    def __init__(self, app: ASGIApp, pace: Pace) -> None:
        self._app = app
        self._pace = pace

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # A connection's next request can begin in the context of its last (https://github.com/python/cpython/issues/140947)
        with tenancy.within(tenancy.EVERY):
            await self._judge(scope, receive, send)

    async def _judge(self, scope: Scope, receive: Receive, send: Send) -> None:
        parts = cast(Parts, cast(FastAPI, scope["app"]).state.parts)
        max_bytes = _max_bytes(scope, parts.settings)
        body = Body(scope, receive, max_bytes, self._pace)
        send = body.closing(send)
        answer = self._app
        audited: tuple[Principal, access.Route] | None = None
        try:
            _check_url(scope)
            headers = Headers(scope=scope)
            if f"{scope['path']}/".startswith(GUARDED):
                if REFUSED in scope["state"]:
                    raise overloaded()
                principal = await _who(parts, headers)
                scope["state"]["principal"] = principal
                routes = access.routes_of(scope["method"], scope["path"])
                scope["state"]["route"] = routes[0]
                if sign_ins.is_link(bearer(headers)) and routes[0].pattern != OPENS_SESSION:
                    message = "A sign-in link opens a session and does nothing else."
                    raise AttuneError(message, code="session_needed", status=401)
                audited = (principal, routes[0]) if routes[0].may_change else None
                if audited and scope["path"].startswith(OURS):
                    send = parts.recent.forgetting(send)
                access.check(principal, routes)
                if embeds.is_token(bearer(headers)):
                    access.check_embed(embeds.job_of(bearer(headers)), routes)
            if headers.get("content-encoding", "identity") != "identity":
                message = "A compressed body is not accepted; send it without Content-Encoding."
                raise AttuneError(message, code="unsupported_encoding", status=415)
            if body.announced > max_bytes:
                raise too_large(max_bytes)
        except AttuneError as error:
            answer = error_response(error)
        if audited is not None:  # refusals, too
            answer = Audited(answer, parts, *audited, scope)
        with tenancy.within(_held_within(scope)):
            await answer(scope, body.receive, send)


def _held_within(scope: Scope) -> str:
    """A tenant's request sees the rows of its project; an operator's, and one that needs no key, every row."""
    principal = scope["state"].get("principal")
    return tenancy.EVERY if principal is None or principal.is_operator else principal.project_id


async def _who(parts: Parts, headers: Headers) -> Principal:
    named = (bearer(headers), headers.get("openai-project"), headers.get("openai-organization"))

    async def look_up() -> Principal:
        return await to_thread.run_sync(authenticate, parts.database, *named)

    if ids.key_parts(named[0]) is None:  # a session or a token, which may serve but once
        return await look_up()
    return await parts.recent.find(*named, look_up)


def _max_bytes(scope: Scope, settings: Settings) -> int:
    if scope["method"] == "POST" and scope["path"] in (FILE_PATH, DASHBOARD_UPLOAD):
        return settings.max_file_bytes + FORM_BYTES
    if scope["method"] == "POST" and PART_PATH.fullmatch(scope["path"]):
        return MAX_PART_BYTES + FORM_BYTES
    return settings.max_json_bytes


def bearer(headers: Headers) -> str:
    """The one key of the request. Raises the 401 for none, several, or another scheme."""
    given = headers.getlist("authorization")
    if not given:
        message = (
            "You didn't provide an API key. Send it in a header: Authorization: Bearer YOUR_KEY. "
            "The first operator's key lies in the file that `attune up` names when it starts."
        )
        raise AttuneError(message, code="invalid_api_key", status=401)
    if len(given) > 1:
        raise AttuneError("Send one Authorization header, not several.", code="invalid_api_key", status=401)
    scheme, _, key = given[0].partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        message = "The Authorization header has to read: Bearer YOUR_KEY."
        raise AttuneError(message, code="invalid_api_key", status=401)
    return key.strip()


def authenticate(
    database: Database, key: str, project: str | None = None, organization: str | None = None
) -> Principal:
    """Whose key or session it is. `api.gate.recent` says for how long that may be believed."""
    if embeds.is_token(key):
        with database.read() as session:
            return embeds.authenticate(session, key)
    with database.read() as session:
        known = sign_ins if sign_ins.is_token(key) else projects
        principal, is_news = known.authenticate(session, key, project=project, organization=organization)
    if is_news:
        with database.begin() as session:
            projects.seen(session, principal.key_id)
    return principal


def _check_url(scope: Scope) -> None:
    """Postgres takes no NUL in a text, and no id of ours holds one."""
    if "\x00" in scope["path"] or b"%00" in scope["query_string"]:
        raise AttuneError("The URL holds a NUL character.", code="invalid_url")
