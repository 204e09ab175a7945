"""/v1/attune/aliases: other names of a project's models. Wherever a model's id is taken, an alias may stand."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import StringConstraints

from api.parts import Caller, Within
from api.shapes.wire import Deleted, Ours, Page, Shown, ends
from core.serving import aliases
from core.serving.alias_models import ModelAlias
from core.storable import ModelId

router = APIRouter(prefix="/v1/attune/aliases", tags=["attune"])
AliasName = Annotated[
    str,
    StringConstraints(max_length=256, pattern=r"^[A-Za-z0-9]([A-Za-z0-9:._/@+-]*[A-Za-z0-9:_@+-])?$"),
]


class AliasCreate(Ours):
    id: AliasName  # the other name
    model: ModelId


class AliasChange(Ours):
    model: ModelId


class AliasObject(Shown):
    id: str
    object: Literal["attune.alias"] = "attune.alias"
    created_at: int
    updated_at: int
    model: str  # that answers
    usable: bool  # false: the model was deleted, or is no longer shared with the project


class AliasList(Page[AliasObject]):
    pass


def _show(row: ModelAlias, *, usable: bool = True) -> AliasObject:
    return AliasObject(
        id=row.name,
        created_at=int(row.created_at),
        updated_at=int(row.updated_at),
        model=row.target,
        usable=usable,
    )


@router.post("")
def create_alias(body: AliasCreate, caller: Caller, parts: Within) -> AliasObject:
    with parts.database.begin() as session:
        row = aliases.create(session, caller.project_id, body.id, body.model)
    return _show(row)


@router.get("")
def list_aliases(
    caller: Caller,
    parts: Within,
    after: Annotated[str | None, Query(max_length=256)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 100,
) -> AliasList:
    with parts.database.read() as session:
        rows, has_more = aliases.page(session, caller.project_id, after=after, limit=limit)
        usable = aliases.usable(session, caller.project_id, [row.target for row in rows])
    data = [_show(row, usable=row.target in usable) for row in rows]
    return AliasList(data=data, **ends(data), has_more=has_more)


# :path, since a name may hold slashes, and some clients encode them and some do not
@router.get("/{alias:path}")
def retrieve_alias(alias: str, caller: Caller, parts: Within) -> AliasObject:
    with parts.database.read() as session:
        row = aliases.get(session, caller.project_id, alias)
        usable = bool(aliases.usable(session, caller.project_id, [row.target]))
    return _show(row, usable=usable)


@router.post("/{alias:path}")
def change_alias(alias: str, body: AliasChange, caller: Caller, parts: Within) -> AliasObject:
    """Point it at another model; the next request that gives the name goes there."""
    with parts.database.begin() as session:
        row = aliases.change(session, caller.project_id, alias, body.model)
    return _show(row)


@router.delete("/{alias:path}")
def delete_alias(alias: str, caller: Caller, parts: Within) -> Deleted:
    """The name is free again; the model that it led to stays."""
    with parts.database.begin() as session:
        aliases.remove(session, caller.project_id, alias)
    return Deleted(id=alias, object="attune.alias")
