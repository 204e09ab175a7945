"""Tokens that let a page elsewhere show one job: signed, expiring, and good for reading that job alone.

Nothing is kept of them. They are signed with what the database knows of the key that made them, and end with it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from dataclasses import dataclass, replace

from sqlalchemy.orm import Session

from core.access import projects
from core.access.projects import Principal, Scope
from core.errors import AttuneError
from core.models import ApiKey

MARK = "attune-embed-"
_TOKEN = re.compile(rf"{MARK}([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.(\d{{1,12}})\.([0-9a-f]{{64}})")


@dataclass(frozen=True)
class Embed:
    """What a token says: which key of which project lets see which job, until when (seconds since the epoch)."""

    key_id: str
    project_id: str
    job_id: str
    expires_at: int


def is_token(text: str) -> bool:
    return text.startswith(MARK)


def sign(session: Session, embed: Embed) -> str:
    said = f"{embed.key_id}.{embed.project_id}.{embed.job_id}.{embed.expires_at}"
    return f"{MARK}{said}.{_signature(session, embed.key_id, said)}"


def job_of(token: str) -> str:
    """The one job that it opens."""
    return _read(token).job_id


def authenticate(session: Session, token: str) -> Principal:
    """Whose token it is, with nothing but reading left. Raises the 401 of one that is not in force."""
    embed = _read(token)
    said, _, signature = token.removeprefix(MARK).rpartition(".")
    if not hmac.compare_digest(_signature(session, embed.key_id, said), signature):
        raise _refused("This embed token was not signed here.")
    if embed.expires_at <= time.time():
        raise _refused("This embed token has expired.")
    principal, _ = projects.acting(session, embed.key_id, project=embed.project_id)
    scopes = frozenset({Scope.READ}) & (frozenset(Scope) if principal.is_operator else principal.scopes)
    return replace(principal, is_operator=False, scopes=scopes)


def _read(token: str) -> Embed:
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise _refused("This is no embed token.")
    return Embed(match[1], match[2], match[3], int(match[4]))


def _signature(session: Session, key_id: str, said: str) -> str:
    row = session.get(ApiKey, key_id)
    if row is None:
        raise _refused("The key that made this embed token is gone.")
    secret = hashlib.sha256(f"embed:{row.secret_sha256}".encode()).digest()
    return hmac.new(secret, said.encode(), "sha256").hexdigest()


def _refused(what: str) -> AttuneError:
    return AttuneError(
        f"{what} POST /v1/attune/fine_tuning/jobs/JOB/embed_tokens makes another.", code="embed_ended", status=401
    )
