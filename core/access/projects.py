"""Tenants and what they authenticate with. The database holds hashes; a key is shown once, when it is made.

A project's key sees its own project alone, and does what its scopes allow; an operator's key may do everything, in
every project (`Principal.is_operator`).
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from core import ids
from core.db import db_now
from core.errors import AttuneError, NotFound
from core.models import ApiKey, Project

DEFAULT = "default"  # the first project's name and slug
SHOWN = 15  # characters of a key that may be shown again: the mark "sk-attune-" and five of its id
MAX_KEYS = 1000  # of a project, in force at once
SEEN_EVERY_S = 60.0  # `last_used_at` is no finer than this, so that reading does not become writing


class Scope(StrEnum):
    """What a key may do in its project. None of them contains another."""

    READ = "read"  # look at everything, and download it
    WRITE = "write"  # upload, train, delete
    INFERENCE = "inference"  # ask models
    ADMIN = "admin"  # manage the project's keys, share its models, read its audit log


USUAL = (Scope.READ, Scope.WRITE, Scope.INFERENCE)  # of a key that is made without a word about scopes


@dataclass(frozen=True)
class Principal:
    """Who is asking: a project, by one of its keys; or an operator, in the project that the request names."""

    project_id: str
    project_slug: str
    key_id: str
    is_operator: bool
    key_name: str
    scopes: frozenset[Scope]
    max_requests_per_minute: int | None = None  # of the project; None: unlimited

    def managed(self, project_id: str | None = None) -> str | None:
        """The project whose keys, shares and log are to be managed; None: all of them, which only operators may.

        Raises NotFound for another's project, as for one that does not exist.
        """
        if not self.is_operator and project_id not in (None, self.project_id):
            raise no_such_project(project_id)
        return project_id if self.is_operator else self.project_id


def no_such_project(project_id: str | None) -> NotFound:
    return NotFound(f"No such project: {project_id}", code="project_not_found", param="project_id")


def create(session: Session, name: str) -> Project:
    """A new project; its slug is made from the name and is unique."""
    slug = ids.slug(name) or "project"
    if session.scalar(select(Project.id).where(Project.slug == slug)) is not None:
        slug = f"{slug[:33]}-{ids.random_text(6).lower()}"
    project = Project(id=ids.project_id(), name=name, slug=slug)
    session.add(project)
    session.flush()
    session.refresh(project)
    return project


def listed(session: Session) -> Sequence[Project]:
    """All projects that have not been erased, oldest first."""
    return session.scalars(
        select(Project).where(Project.erased_at.is_(None)).order_by(Project.created_at, Project.id)
    ).all()


def get(session: Session, project_id: str) -> Project:
    """Raises NotFound, also for a project that is being erased."""
    project = session.get(Project, project_id)
    if project is None or project.erased_at is not None:
        raise no_such_project(project_id)
    return project


def lock(session: Session, project_id: str) -> Project:
    """The project, with one transaction at a time: what is counted in it stays true until it ends."""
    locked = select(Project).where(Project.id == project_id).with_for_update(key_share=True)
    if session.scalar(locked) is None:
        raise NotFound(f"No such project: {project_id}", code="project_not_found", param="project_id")
    return get(session, project_id)


UNLIMITED = (Project.max_jobs.is_(None), Project.max_stored_bytes.is_(None))


def lock_for_one_more(session: Session, project_id: str) -> Project:
    """As `lock`, for who adds a job. Where nothing is counted, others may add theirs at the same time, and it is
    only made sure that the project stays, and stays without limits."""
    unlimited = select(Project).where(Project.id == project_id, *UNLIMITED)
    project = session.scalar(unlimited.with_for_update(read=True))
    return lock(session, project_id) if project is None else get(session, project_id)


def first(session: Session) -> Project:
    """The project `default`, made if it is missing and locked until the transaction ends."""
    locked = select(Project).where(Project.slug == DEFAULT).with_for_update()
    return session.scalar(locked) or create(session, DEFAULT)


def create_key(
    session: Session,
    project: Project,
    name: str,
    *,
    is_operator: bool = False,
    scopes: Sequence[Scope] = USUAL,
    expires_in_s: float | None = None,
) -> tuple[ApiKey, str]:
    """(the row, the key itself, which nothing can show again). Raises the 400 of a project that has enough."""
    held = select(func.count()).where(ApiKey.project_id == project.id, ApiKey.revoked_at.is_(None))
    if not is_operator and (session.scalar(held) or 0) >= MAX_KEYS:
        raise AttuneError(f"A project has at most {MAX_KEYS} keys; revoke one of them first.", code="too_many_keys")
    key_id, key = ids.new_key()
    parts = ids.key_parts(key)
    assert parts is not None
    row = ApiKey(
        id=key_id,
        project_id=project.id,
        name=name,
        prefix=key[:SHOWN],
        secret_sha256=parts[1],
        is_operator=is_operator,
        scopes=[scope for scope in Scope if is_operator or scope in scopes],
        expires_at=None if expires_in_s is None else db_now() + expires_in_s,
    )
    session.add(row)
    session.flush()
    session.refresh(row)
    return row, key


def keys(session: Session, project_id: str | None = None, *, with_operators: bool = True) -> Sequence[ApiKey]:
    """The keys that are not revoked, of one project or of all, newest first."""
    query = select(ApiKey).where(ApiKey.revoked_at.is_(None))
    if project_id is not None:
        query = query.where(ApiKey.project_id == project_id)
    if not with_operators:
        query = query.where(~ApiKey.is_operator)
    return session.scalars(query.order_by(ApiKey.created_at.desc(), ApiKey.id)).all()


def has_operator_key(session: Session, *, besides: str = "") -> bool:
    """Is there an operator's key that lasts (other than the key `besides`)?"""
    query = select(ApiKey.id).where(
        ApiKey.is_operator, ApiKey.revoked_at.is_(None), ApiKey.expires_at.is_(None), ApiKey.id != besides
    )
    return session.scalar(query.limit(1)) is not None


def revoke_key(session: Session, key_id: str, *, within: str | None = None) -> ApiKey:
    """End a key: its next request is refused. The last operator's key stays, or nobody could run the place.

    `within`: only a key of this project, and no operator's.
    """
    query = select(ApiKey).where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None))
    if within is not None:
        query = query.where(ApiKey.project_id == within, ~ApiKey.is_operator)
    row = session.scalar(query.with_for_update())
    if row is None:
        raise NotFound(f"No such key: {key_id}", code="key_not_found", param="key_id")
    if row.is_operator and not has_operator_key(session, besides=key_id):
        raise AttuneError(
            f"{key_id} is the last operator's key that does not expire. Make another one before you revoke it.",
            code="last_operator_key",
            param="key_id",
        )
    session.execute(update(ApiKey).where(ApiKey.id == key_id).values(revoked_at=db_now()))
    return row


def authenticate(
    session: Session, key: str, *, project: str | None = None, organization: str | None = None
) -> tuple[Principal, bool]:
    """(whose key it is, whether `seen` should be told of it). Raises the 401 of a key that is not in force.

    `project` and `organization`: the headers of those names, which have to mean the key's project (by its id or
    slug). An operator's key acts in the project that they name.
    """
    parts = ids.key_parts(key)
    if parts is None:  # junk: no look-up
        raise refused_key(key)
    found = _in_use(session, parts[0])
    if found is None or not hmac.compare_digest(found[0].secret_sha256, parts[1]):
        raise refused_key(key)
    return _principal(session, found, project, organization)


def acting(
    session: Session, key_id: str, *, project: str | None = None, organization: str | None = None
) -> tuple[Principal, bool]:
    """As `authenticate`, for who may act as a key without holding it. Raises the 401 of a key that is not in force."""
    found = _in_use(session, key_id)
    if found is None:
        message = "The API key that this session was opened with has been revoked."
        raise AttuneError(message, code="invalid_api_key", status=401)
    return _principal(session, found, project, organization)


_InUse = tuple[ApiKey, str, int | None, float]  # key, its project's slug and limit, now


def _in_use(session: Session, key_id: str) -> _InUse | None:
    found = session.execute(
        select(ApiKey, Project.slug, Project.max_requests_per_minute, db_now())
        .join(Project, Project.id == ApiKey.project_id)
        .where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None), Project.erased_at.is_(None))
    ).one_or_none()
    if found is None:
        return None
    row, slug, per_minute, now = found
    return row, slug, per_minute, now


def _principal(
    session: Session, found: _InUse, project: str | None, organization: str | None
) -> tuple[Principal, bool]:
    row, slug, per_minute, now = found
    if row.expires_at is not None and row.expires_at <= now:
        message = f"This API key ({row.prefix}…) has expired. Keys are made with `attune keys create`."
        raise AttuneError(message, code="invalid_api_key", status=401)
    project_id = row.project_id
    if row.is_operator and (named := project or organization):
        project_id, slug = _named(session, named)
        per_minute = None  # an operator's calls are counted, never refused
    for kind, given in (("project", project), ("organization", organization)):
        if given and given not in (project_id, slug):
            raise AttuneError(
                f"OpenAI-{kind.capitalize()} header should match {kind} for API key. The key's is {project_id} "
                f"('{slug}'): name that, or leave the header out.",
                code=f"mismatched_{kind}",
                status=401,
            )
    scopes = frozenset(map(Scope, row.scopes))
    principal = Principal(project_id, slug, row.id, row.is_operator, row.name, scopes, per_minute)
    return principal, row.last_used_at is None or now - row.last_used_at > SEEN_EVERY_S


def _named(session: Session, name: str) -> tuple[str, str]:
    """(id, slug) of the project that an operator wants to act in."""
    query = select(Project.id, Project.slug).where(or_(Project.id == name, Project.slug == name))
    found = session.execute(query.where(Project.erased_at.is_(None))).one_or_none()
    if found is None:
        message = "The OpenAI-Project or OpenAI-Organization header names no project of this place."
        raise AttuneError(message, code="invalid_project", status=401)
    return found[0], found[1]


def seen(session: Session, key_id: str) -> None:
    """Note that the key was used now, unless another request has just done so."""
    stale = or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < db_now() - SEEN_EVERY_S)
    session.execute(update(ApiKey).where(ApiKey.id == key_id, stale).values(last_used_at=db_now()))


def refused_key(key: str) -> AttuneError:
    shown = f"{key[:SHOWN]}…" if key.startswith("sk-") and len(key) > SHOWN else "(hidden)"
    return AttuneError(
        f"Incorrect API key provided: {shown}. Keys are made with `attune keys create`.",
        code="invalid_api_key",
        status=401,
    )
