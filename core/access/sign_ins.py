"""Sessions of browsers, and links that open one: tokens that act as a key, expire, and end when the key is revoked.

A browser never holds a key: what it keeps is a session's token, and of that the database holds the hash alone.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from core import ids
from core.access import projects
from core.access.models import SignIn
from core.access.projects import Principal
from core.db import db_now
from core.errors import AttuneError

SESSION_S = 12 * 3600.0
LINK_S = 3600.0
SESSION_MARK = "attune-session-"
LINK_MARK = "attune-link-"
_TOKEN = re.compile(rf"(?:{SESSION_MARK}|{LINK_MARK})[A-Za-z0-9_-]{{43}}")


@dataclass(frozen=True)
class Opened:
    """A new session or link; `token` is shown once."""

    id: str
    token: str
    expires_at: float


def is_token(text: str) -> bool:
    return _TOKEN.fullmatch(text) is not None


def is_link(text: str) -> bool:
    return text.startswith(LINK_MARK)


def open_session(session: Session, key_id: str) -> Opened:
    return _open(session, key_id, SESSION_MARK, SESSION_S)


def open_link(session: Session, key_id: str) -> Opened:
    return _open(session, key_id, LINK_MARK, LINK_S)


def _open(session: Session, key_id: str, mark: str, lifetime_s: float) -> Opened:
    token = mark + secrets.token_urlsafe(32)
    row = SignIn(
        id=ids.sign_in_id(),
        key_id=key_id,
        token_sha256=_sha256(token),
        is_link=mark == LINK_MARK,
        expires_at=db_now() + lifetime_s,
    )
    session.add(row)
    session.flush()
    session.refresh(row)
    return Opened(row.id, token, row.expires_at)


def authenticate(
    session: Session, token: str, *, project: str | None = None, organization: str | None = None
) -> tuple[Principal, bool]:
    """As `projects.authenticate`: whose token it is, if it and its key are in force. Raises the 401."""
    row = _find(session, token)
    if row is None:
        raise _ended(token)
    return projects.acting(session, row.key_id, project=project, organization=organization)


def expires_at(session: Session, token: str) -> float | None:
    """When a session ends by itself; None for what is no session (a key)."""
    row = _find(session, token) if is_token(token) else None
    return None if row is None else row.expires_at


def use_up(session: Session, token: str) -> None:
    """Take a link away with its first use. Raises the 401 of one that another request has just used."""
    used = delete(SignIn).where(SignIn.token_sha256 == _sha256(token), SignIn.is_link).returning(SignIn.id)
    if session.scalar(used) is None:
        raise _ended(token)


def end(session: Session, token: str) -> str | None:
    """Sign out; the session's id, or None where it was over already."""
    return session.scalar(delete(SignIn).where(SignIn.token_sha256 == _sha256(token)).returning(SignIn.id))


def forget_expired(session: Session) -> None:
    session.execute(delete(SignIn).where(SignIn.expires_at <= db_now()))


def _find(session: Session, token: str) -> SignIn | None:
    in_force = select(SignIn).where(SignIn.token_sha256 == _sha256(token), SignIn.expires_at > db_now())
    return session.scalar(in_force)


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _ended(token: str) -> AttuneError:
    if is_link(token):
        message = "This link has been used or has expired. `attune dashboard` prints another."
    else:
        message = "This session is over. Sign in again."
    return AttuneError(message, code="session_ended", status=401)
