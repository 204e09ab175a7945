"""Models shared between projects: OpenAI's checkpoint permissions. Only the owner's side gives and takes them.

A permission lets the other project list the model, ask it, and train on from it: what can be taken back. It lets
nobody delete the model, which is the owner's, nor download it, since weights that have left cannot be taken back.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from core import ids
from core.access import tenancy
from core.errors import AttuneError, NotFound
from core.models import CheckpointPermission, Model, Project
from core.serving.published import no_such_model


def share(
    session: Session, owner: str | None, model_id: str, project_ids: Sequence[str]
) -> tuple[Model, list[CheckpointPermission]]:
    """(the model, a permission for each project, made or found). `owner` None: an operator shares any model."""
    model = _owned(session, owner, model_id)
    permissions: list[CheckpointPermission] = []
    for project_id in dict.fromkeys(project_ids):
        with tenancy.across(session):  # the guest's row is another tenant's
            project = session.scalar(select(Project).where(Project.id == project_id, Project.erased_at.is_(None)))
        if project is None:
            raise NotFound(f"No such project: {project_id}", code="project_not_found", param="project_ids")
        if project_id == model.project_id:
            message = f"The project {project_id} owns '{model.id}' and needs no permission."
            raise AttuneError(message, code="project_is_owner", param="project_ids")
        permission = session.scalar(
            select(CheckpointPermission).where(
                CheckpointPermission.model_id == model.id, CheckpointPermission.project_id == project_id
            )
        )
        if permission is None:
            permission = CheckpointPermission(
                id=ids.permission_id(), model_id=model.id, owner_project_id=model.project_id, project_id=project_id
            )
            session.add(permission)
            session.flush()
            session.refresh(permission)
        permissions.append(permission)
    return model, permissions


def page(
    session: Session,
    owner: str | None,
    model_id: str,
    *,
    project_id: str | None,
    after: str | None,
    limit: int,
    ascending: bool,
) -> tuple[Sequence[CheckpointPermission], bool]:
    """(up to `limit` of the model's permissions, after the permission `after`; whether there are more)."""
    model = _owned(session, owner, model_id, lock=False)
    query = select(CheckpointPermission).where(CheckpointPermission.model_id == model.id)
    place = tuple_(CheckpointPermission.created_at, CheckpointPermission.id)
    if after is not None:
        cursor = session.scalar(query.where(CheckpointPermission.id == after))
        if cursor is None:
            message = f"No such checkpoint permission with id: {after}"
            raise AttuneError(message, code="invalid_cursor", param="after")
        here = tuple_(cursor.created_at, cursor.id)
        query = query.where(place > here if ascending else place < here)
    if project_id is not None:
        query = query.where(CheckpointPermission.project_id == project_id)
    columns = (CheckpointPermission.created_at, CheckpointPermission.id)
    turned = columns if ascending else tuple(column.desc() for column in columns)
    rows = session.scalars(query.order_by(*turned).limit(limit + 1)).all()
    return rows[:limit], len(rows) > limit


def withdraw(session: Session, owner: str | None, model_id: str, permission_id: str) -> Model:
    """Take a permission back: the next request that relies on it is refused. Jobs that have begun go on."""
    model = _owned(session, owner, model_id)
    permission = session.scalar(
        select(CheckpointPermission).where(
            CheckpointPermission.id == permission_id, CheckpointPermission.model_id == model.id
        )
    )
    if permission is None:
        raise NotFound(
            f"No such checkpoint permission: {permission_id}", code="permission_not_found", param="permission_id"
        )
    session.delete(permission)
    return model


def _owned(session: Session, owner: str | None, model_id: str, *, lock: bool = True) -> Model:
    """The model, if it is the owner's. `lock`: two calls about one model go one after the other."""
    query = select(Model).where(Model.id == model_id, Model.deleted_at.is_(None))
    if owner is not None:
        query = query.where(Model.project_id == owner)
    model = session.scalar(query.with_for_update() if lock else query)
    if model is None:
        raise no_such_model(model_id)
    return model
