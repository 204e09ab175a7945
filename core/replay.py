"""A request that is sent again does its work once: by an Idempotency-Key, or by the count of its retries.

With a key, the answer is kept for a day, as Stripe does. Without one, OpenAI's clients repeat a request whose answer
was lost and say only that they do (`x-stainless-retry-count`); that is enough to find what the first one has made.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

from sqlalchemy import ColumnElement, Double, Table, and_, bindparam, delete, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from core.db import db_now, is_alone
from core.errors import AttuneError
from core.models import Creation, KeptAnswer

KEPT_S = 24 * 3600.0
RETRY_WINDOW_S = 15 * 60.0  # OpenAI's clients wait up to ten minutes for an answer before they ask again
HELD_S = 60.0  # a request that takes longer has died with its process
_CREATIONS = cast(Table, Creation.__table__)


@dataclass(frozen=True)
class Keyed:
    """A request with an Idempotency-Key. `holder`: random, of this arrival; `secret`: what it authenticated with."""

    key_id: str
    idempotency_key: str
    request_sha256: str
    holder: str
    secret: str


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes


def take(session: Session, keyed: Keyed) -> Answer | Literal["taken", "busy"]:
    """`taken`: do the work, then `keep` or `release`. `busy`: another request of the same key is at it.

    Raises the 422 of a key that was used for another request.
    """
    insert_or_not = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    values = {
        "request_sha256": keyed.request_sha256,
        "holder": keyed.holder,
        "held_until": db_now() + HELD_S,
        "status": None,
        "body": None,
        "created_at": db_now(),
    }
    died = and_(
        KeptAnswer.status.is_(None),
        KeptAnswer.held_until < db_now(),
        KeptAnswer.request_sha256 == keyed.request_sha256,
    )
    taken = session.scalar(
        insert_or_not(KeptAnswer)
        .values(key_id=keyed.key_id, idempotency_key=keyed.idempotency_key, **values)
        .on_conflict_do_update(
            index_elements=[KeptAnswer.key_id, KeptAnswer.idempotency_key],
            set_=values,
            where=or_(died, KeptAnswer.created_at < db_now() - KEPT_S),
        )
        .returning(KeptAnswer.holder)
    )
    return "taken" if taken is not None else look(session, keyed) or "busy"


def look(session: Session, keyed: Keyed) -> Answer | Literal["busy"] | None:
    """As `take`, without taking; None: there is something to take."""
    found = session.execute(
        select(KeptAnswer, KeptAnswer.held_until < db_now()).where(
            KeptAnswer.key_id == keyed.key_id, KeptAnswer.idempotency_key == keyed.idempotency_key
        )
    ).one_or_none()
    if found is None:
        return None
    row, is_overdue = found
    if row.request_sha256 != keyed.request_sha256:
        raise AttuneError(
            f"The Idempotency-Key '{keyed.idempotency_key}' was used for another request in the last 24 hours. "
            "Send the very same request, or another key.",
            code="idempotency_key_reused",
            param="Idempotency-Key",
            status=422,
        )
    if row.status is None:
        return None if is_overdue else "busy"
    assert row.body is not None
    return Answer(row.status, _sealed(keyed.secret, row.holder, row.body))


def keep(session: Session, keyed: Keyed, answer: Answer) -> None:
    """From now on `answer` is the answer to this key."""
    body = _sealed(keyed.secret, keyed.holder, answer.body)
    session.execute(update(KeptAnswer).where(*_held(keyed)).values(status=answer.status, body=body))


def release(session: Session, keyed: Keyed) -> None:
    """Nothing was done: the same key may be tried again."""
    session.execute(delete(KeptAnswer).where(*_held(keyed)))


def _held(keyed: Keyed) -> list[ColumnElement[bool]]:
    return [
        KeptAnswer.key_id == keyed.key_id,
        KeptAnswer.idempotency_key == keyed.idempotency_key,
        KeptAnswer.holder == keyed.holder,
    ]


def _sealed(secret: str, holder: str, data: bytes) -> bytes:
    """XOR with a stream that the caller's own key alone gives, once for each `holder`; twice gives `data` again.

    An answer may hold a key that is shown once, and the database is to hold no key.
    """
    stream = hashlib.shake_256(f"{holder}/{secret}".encode()).digest(len(data))
    mixed = int.from_bytes(data, "big") ^ int.from_bytes(stream, "big")
    return mixed.to_bytes(len(data), "big")


@dataclass(frozen=True)
class Asked:
    """A request that makes something, as its headers tell. `arrived`: by this process's `time.perf_counter`."""

    key_id: str
    request_sha256: str  # of what it asks for
    retry_count: int
    arrived: float
    idempotency_key: str | None = None

    @property
    def chain(self) -> str:
        """What the arrivals of one request have in common: one transaction at a time is at it."""
        return f"{self.key_id} {self.request_sha256}"


# Built once: every call that makes something asks one of them
_NEWEST = (
    select(Creation.object_id, Creation.made_by, Creation.answered)
    .where(Creation.key_id == bindparam("key_id"), Creation.request_sha256 == bindparam("request_sha256"))
    .where(Creation.project_id == bindparam("project_id"))
    .order_by(Creation.created_at.desc())
    .limit(1)
)
_BY_KEY = _NEWEST.where(
    Creation.idempotency_key == bindparam("idempotency_key"), Creation.created_at > db_now() - KEPT_S
)
_REPEATED = and_(Creation.answered < bindparam("retry_count"), Creation.created_at > db_now() - RETRY_WINDOW_S)
# The first arrival, held up on its way: the retry was faster
_OVERTAKEN = and_(
    Creation.made_by > bindparam("retry_count"), Creation.created_at > db_now() - bindparam("waited_s", type_=Double())
)
_BY_COUNT = _NEWEST.where(Creation.idempotency_key.is_(None), or_(_REPEATED, _OVERTAKEN))


def earlier(session: Session, project_id: str, asked: Asked) -> str | None:
    """The id of what this very request has made before, in an arrival whose answer was lost.

    Each is the answer to one chain of retries: two equal requests that were meant as two have made two. The
    transaction has begun alone at the chain, since two arrivals of one request may be under way at once.
    """
    assert is_alone(session, asked.chain)
    query = _BY_COUNT if asked.idempotency_key is None else _BY_KEY
    # by now: it may have waited for others on its way here
    waited_s = time.perf_counter() - asked.arrived
    found = session.execute(query, {**vars(asked), "project_id": project_id, "waited_s": waited_s}).one_or_none()
    if found is None:
        return None
    object_id, made_by, answered = found
    told = {"made_by": min(made_by, asked.retry_count), "answered": max(answered, asked.retry_count)}
    session.execute(update(Creation).where(Creation.object_id == object_id).values(**told))
    return object_id


def note(session: Session, project_id: str, made: Mapping[str, Asked]) -> None:
    """What was made of which request, by the object's id: in the transaction that makes them, so that there is never
    one without the other."""
    rows = [
        {
            "object_id": object_id,
            "project_id": project_id,
            "key_id": asked.key_id,
            "request_sha256": asked.request_sha256,
            "made_by": asked.retry_count,
            "answered": asked.retry_count,
            "idempotency_key": asked.idempotency_key,
        }
        for object_id, asked in made.items()
    ]
    session.execute(insert(_CREATIONS), rows)


def forget_old(session: Session) -> None:
    """What no request can ask for any more."""
    for table in (KeptAnswer, Creation):
        session.execute(delete(table).where(table.created_at < db_now() - KEPT_S))
