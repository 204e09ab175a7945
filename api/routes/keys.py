"""/v1/attune/keys: made (shown once), listed and revoked by a project's admins for it, by operators for all."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import Field, StringConstraints

from api.parts import Caller, Within, concerns
from api.shapes.job_object import seconds
from api.shapes.wire import Deleted, Ours, Shown
from core.access import projects
from core.access.projects import USUAL, Scope
from core.errors import AttuneError
from core.models import ApiKey
from core.storable import Name, Text

router = APIRouter(prefix="/v1/attune/keys", tags=["keys"])
MAX_LIFETIME_S = 10 * 366 * 24 * 3600


class KeyCreate(Ours):
    name: Name
    project_id: Annotated[Text, StringConstraints(max_length=64)] | None = None  # None: the caller's
    is_operator: Annotated[bool, Field(strict=True)] = False
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=8)] | None = None  # None: read, write, inference
    expires_in_s: Annotated[int, Field(ge=1, le=MAX_LIFETIME_S)] | None = None  # None: it lasts until it is revoked


class KeyObject(Shown):
    id: str
    object: Literal["attune.key"] = "attune.key"
    name: str
    project_id: str
    prefix: str
    is_operator: bool
    scopes: list[Scope]
    created_at: int
    expires_at: int | None
    last_used_at: int | None
    key: str | None = None  # only in the answer to its creation


class KeyList(Shown):
    object: Literal["list"] = "list"
    data: list[KeyObject]


def _show(row: ApiKey, key: str | None = None) -> KeyObject:
    return KeyObject(
        id=row.id,
        name=row.name,
        project_id=row.project_id,
        prefix=row.prefix,
        is_operator=row.is_operator,
        scopes=list(Scope) if row.is_operator else row.scopes,
        created_at=int(row.created_at),
        expires_at=seconds(row.expires_at),
        last_used_at=seconds(row.last_used_at),
        key=key,
    )


@router.post("")
def create_key(body: KeyCreate, request: Request, caller: Caller, parts: Within) -> KeyObject:
    """An admin may make keys with any scope of the project, also such as its own key has not."""
    if body.is_operator and not caller.is_operator:
        message = "Only an operator makes an operator's key; leave is_operator out."
        raise AttuneError(message, code="operator_required", param="is_operator", status=403)
    if body.is_operator and body.scopes is not None:
        message = "An operator's key may do everything: leave scopes out, or is_operator."
        raise AttuneError(message, code="invalid_value", param="scopes")
    project_id = caller.managed(body.project_id) or caller.project_id
    with parts.database.begin() as session:
        row, key = projects.create_key(
            session,
            projects.get(session, project_id),
            body.name,
            is_operator=body.is_operator,
            scopes=body.scopes or USUAL,
            expires_in_s=body.expires_in_s,
        )
    concerns(request, row.project_id)
    return _show(row, key)


@router.get("")
def list_keys(caller: Caller, parts: Within, project_id: Annotated[str | None, Query(max_length=64)] = None) -> KeyList:
    """The keys that are not revoked. Operators see all, an admin those of the project that are no operator's."""
    asked = caller.managed(project_id)
    with parts.database.read() as session:
        rows = projects.keys(session, asked, with_operators=caller.is_operator)
    return KeyList(data=[_show(row) for row in rows])


@router.delete("/{key_id}")
def revoke_key(key_id: str, request: Request, caller: Caller, parts: Within) -> Deleted:
    with parts.database.begin() as session:
        row = projects.revoke_key(session, key_id, within=caller.managed())
    concerns(request, row.project_id)
    return Deleted(id=key_id, object="attune.key")
