"""/v1/fine_tuning/checkpoints/{model}/permissions: share a model or checkpoint with other projects."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from api.parts import Caller, Within, concerns
from api.shapes.wire import Deleted, Page, Shown, ends
from core.models import CheckpointPermission
from core.serving import sharing
from core.storable import Text

# :path, since some clients encode the slash of an id and some do not
router = APIRouter(prefix="/v1/fine_tuning/checkpoints/{model:path}/permissions", tags=["fine-tuning"])
ProjectId = Annotated[Text, StringConstraints(min_length=1, max_length=64)]


class CreatePermissions(BaseModel):
    model_config = ConfigDict(frozen=True)

    project_ids: Annotated[list[ProjectId], Field(min_length=1, max_length=100)]


class PermissionObject(Shown):
    id: str
    object: Literal["checkpoint.permission"] = "checkpoint.permission"
    created_at: int
    project_id: str


class PermissionList(Page[PermissionObject]):
    pass


def _listed(rows: list[CheckpointPermission], has_more: bool) -> PermissionList:
    data = [PermissionObject(id=row.id, created_at=int(row.created_at), project_id=row.project_id) for row in rows]
    return PermissionList(data=data, **ends(data), has_more=has_more)


@router.post("")
def create_permissions(
    model: str, body: CreatePermissions, request: Request, caller: Caller, parts: Within
) -> PermissionList:
    """Lets the projects list the model, ask it and train on from it; not download or delete it."""
    with parts.database.begin() as session:
        shared, rows = sharing.share(session, caller.managed(), model, body.project_ids)
    concerns(request, shared.project_id)
    return _listed(rows, False)


@router.get("")
def list_permissions(
    model: str,
    caller: Caller,
    parts: Within,
    project_id: Annotated[str | None, Query(max_length=64)] = None,
    after: Annotated[str | None, Query(max_length=128)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
    order: Literal["ascending", "descending"] = "descending",
) -> PermissionList:
    with parts.database.read() as session:
        rows, has_more = sharing.page(
            session,
            caller.managed(),
            model,
            project_id=project_id,
            after=after,
            limit=limit,
            ascending=order == "ascending",
        )
    return _listed(list(rows), has_more)


@router.delete("/{permission_id}")
def delete_permission(model: str, permission_id: str, request: Request, caller: Caller, parts: Within) -> Deleted:
    """The project may no longer use the model. Jobs that it has begun from it go on."""
    with parts.database.begin() as session:
        shared = sharing.withdraw(session, caller.managed(), model, permission_id)
    concerns(request, shared.project_id)
    return Deleted(id=permission_id, object="checkpoint.permission")
