"""Other names of a project's models, so that code keeps the names it was written with.

A name is resolved where a request gives one, and nowhere deeper: rows of jobs name models by their own ids. A
real model always comes before an alias of the same name, and no alias leads to another.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.access import projects
from core.bases import catalog
from core.db import db_now
from core.errors import AttuneError, NotFound
from core.serving import published
from core.serving.alias_models import ModelAlias

MAX_ALIASES = 1000  # of a project


def resolve(session: Session, project_id: str, name: str) -> str:
    """The id of the model that `name` means: an alias' target, or `name` itself, whether there is such a model or
    not. Raises NotFound for an alias of what is gone."""
    if _is_usable(session, project_id, name):
        return name
    alias = session.get(ModelAlias, (project_id, name))
    if alias is None:
        return name
    if not _is_usable(session, project_id, alias.target):
        raise NotFound(
            f"The model '{name}' does not exist: it is an alias of '{alias.target}', which is gone. Point it at "
            "another model (`attune aliases set`), or delete it.",
            code="model_not_found",
            param="model",
        )
    return alias.target


def _is_usable(session: Session, project_id: str, model_id: str) -> bool:
    return published.find(session, project_id, model_id) is not None or catalog.look(session, model_id) is not None


def create(session: Session, project_id: str, name: str, target: str) -> ModelAlias:
    """A new alias. Raises AttuneError for a name that is taken, or a target that the project cannot use."""
    projects.lock(session, project_id)
    if _is_usable(session, project_id, name):
        message = f"'{name}' is the name of a model here, and an alias would hide it; choose another name."
        raise AttuneError(message, code="alias_is_model", param="id")
    earlier = session.get(ModelAlias, (project_id, name))
    if earlier is not None:
        message = f"'{name}' is an alias of '{earlier.target}' already; POST to it to point it elsewhere."
        raise AttuneError(message, code="alias_exists", param="id")
    count = session.scalar(select(func.count()).where(ModelAlias.project_id == project_id)) or 0
    if count >= MAX_ALIASES:
        message = f"A project has at most {MAX_ALIASES} aliases; delete one of them first."
        raise AttuneError(message, code="too_many_aliases")
    _check_target(session, project_id, target)
    alias = ModelAlias(project_id=project_id, name=name, target=target)
    session.add(alias)
    session.flush()
    session.refresh(alias)
    return alias


def _check_target(session: Session, project_id: str, target: str) -> None:
    if catalog.look(session, target) is not None or published.find(session, project_id, target, lock=True) is not None:
        return
    other = session.get(ModelAlias, (project_id, target))
    if other is None:
        # not a 404: what the address names is there, and the fault is the body's
        message = f"The model '{target}' does not exist; name one that `GET /v1/models` lists."
        raise AttuneError(message, code="model_not_found", param="model")
    message = f"'{target}' is an alias itself; name the model that it leads to: '{other.target}'."
    raise AttuneError(message, code="alias_of_alias", param="model")


def get(session: Session, project_id: str, name: str, *, lock: bool = False) -> ModelAlias:
    """The project's alias. `lock`: nobody else writes it in this transaction."""
    query = select(ModelAlias).where(ModelAlias.project_id == project_id, ModelAlias.name == name)
    alias = session.scalar(query.with_for_update() if lock else query)
    if alias is None:
        raise NotFound(f"No such alias: {name[:256]}", code="alias_not_found", param="alias")
    return alias


def page(session: Session, project_id: str, *, after: str | None, limit: int) -> tuple[Sequence[ModelAlias], bool]:
    """(up to `limit` aliases in the order of their names, after the name `after`; whether there are more)."""
    query = select(ModelAlias).where(ModelAlias.project_id == project_id)
    if after is not None:
        query = query.where(ModelAlias.name > after)
    rows = session.scalars(query.order_by(ModelAlias.name).limit(limit + 1)).all()
    return rows[:limit], len(rows) > limit


def listed(session: Session, project_id: str) -> Sequence[ModelAlias]:
    """All of the project's aliases, those that lead nowhere included."""
    mine = select(ModelAlias).where(ModelAlias.project_id == project_id)
    return session.scalars(mine.order_by(ModelAlias.name)).all()


def change(session: Session, project_id: str, name: str, target: str) -> ModelAlias:
    """Point an alias elsewhere: the next request that gives its name is answered by `target`."""
    alias = get(session, project_id, name, lock=True)
    _check_target(session, project_id, target)
    now = session.scalar(select(db_now()))
    assert now is not None
    alias.target, alias.updated_at = target, now
    return alias


def remove(session: Session, project_id: str, name: str) -> None:
    session.delete(get(session, project_id, name, lock=True))


def usable(session: Session, project_id: str, targets: Sequence[str]) -> set[str]:
    """Those of `targets` that lead to a model."""
    return {target for target in set(targets) if _is_usable(session, project_id, target)}
