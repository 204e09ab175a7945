"""/v1/attune/session: sign-in for browsers. A key, or a link that is good once, opens a session that expires.

A session's token is sent as a key is, may do what its key may, and ends with it.
"""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request

from api.gate.auth import bearer
from api.parts import Caller, Within
from api.shapes.job_object import seconds
from api.shapes.wire import Deleted, Shown
from core.access import projects, sign_ins
from core.access.projects import Principal, Scope
from core.errors import AttuneError

router = APIRouter(prefix="/v1/attune", tags=["sessions"])


class SessionObject(Shown):
    """Who is signed in, and what the key may do."""

    object: Literal["attune.session"] = "attune.session"
    token: str | None = None  # only in the answer that opens it
    expires_at: int | None  # null: asked with a key and not with a session
    key_id: str
    key_name: str
    is_operator: bool
    scopes: list[Scope]
    project_id: str
    project_name: str


class SignInLink(Shown):
    object: Literal["attune.sign_in_link"] = "attune.sign_in_link"
    token: str  # /dashboard/enter?link=…
    expires_at: int


@router.get("/session")
def retrieve_session(request: Request, caller: Caller, parts: Within) -> SessionObject:
    """Whose session, or key, this request was made with."""
    with parts.database.read() as session:
        project = projects.get(session, caller.project_id)
        expires_at = sign_ins.expires_at(session, bearer(request.headers))
    return _show(caller, project.name, expires_at)


@router.post("/sessions")
def open_session(request: Request, caller: Caller, parts: Within) -> SessionObject:
    """Sign in: asked with a key, or with a sign-in link's token, which this uses up."""
    given = bearer(request.headers)
    if sign_ins.is_token(given) and not sign_ins.is_link(given):
        raise AttuneError("A session opens no other: sign in with a key.", code="session_not_extendable", status=403)
    with parts.database.begin() as session:
        if sign_ins.is_link(given):
            sign_ins.use_up(session, given)
        opened = sign_ins.open_session(session, caller.key_id)
        project = projects.get(session, caller.project_id)
    return _show(caller, project.name, opened.expires_at, opened.token)


@router.delete("/session")
def end_session(request: Request, caller: Caller, parts: Within) -> Deleted:
    """Sign out."""
    with parts.database.begin() as session:
        ended = sign_ins.end(session, bearer(request.headers))
    if ended is None:
        message = f"This request came with the key {caller.key_name}, not with a session; a key is revoked instead."
        raise AttuneError(message, code="not_a_session")
    return Deleted(id=ended, object="attune.session")


@router.post("/sign_in_links")
def create_sign_in_link(request: Request, caller: Caller, parts: Within) -> SignInLink:
    """A token that opens one session as this key, within the hour: to hand over in place of the key."""
    if sign_ins.is_token(bearer(request.headers)):
        raise AttuneError("Links are made with a key, not in a session.", code="key_needed", status=403)
    with parts.database.begin() as session:
        opened = sign_ins.open_link(session, caller.key_id)
    return SignInLink(token=opened.token, expires_at=int(opened.expires_at))


def _show(caller: Principal, project_name: str, expires_at: float | None, token: str | None = None) -> SessionObject:
    return SessionObject(
        token=token,
        expires_at=seconds(expires_at),
        key_id=caller.key_id,
        key_name=caller.key_name,
        is_operator=caller.is_operator,
        scopes=list(Scope) if caller.is_operator else [scope for scope in Scope if scope in caller.scopes],
        project_id=caller.project_id,
        project_name=project_name,
    )
