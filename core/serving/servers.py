"""The servers that generate: ours write their own rows and beat, an operator adds others by their address.

A server without a base serves every base of the catalog; one that names a base (vLLM, say) serves that alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session

from core.db import db_now
from core.models import Server

ALIVE_S = 30.0  # a server of ours that has been silent for longer counts as gone
BEAT_S = 5.0
EXTERNAL = "external"  # `device` of a server that an operator added: it does not beat


def register(session: Session, server_id: str, *, base_model: str | None, address: str, device: str) -> None:
    """Write the row of a server that starts, or that an operator adds, in the place of its predecessor's."""
    session.execute(delete(Server).where(Server.id == server_id))
    session.add(Server(id=server_id, base_model=base_model, address=address, device=device))


def beat(session: Session, server_id: str, address: str) -> bool:
    """Say that the server lives. False: its row is gone, and it has to register again."""
    done = session.execute(
        update(Server)
        .where(Server.id == server_id, Server.address == address)
        .values(beat_at=db_now())
        .returning(Server.id)
        .execution_options(synchronize_session=False)
    )
    return done.one_or_none() is not None


def leave(session: Session, server_id: str) -> None:
    """A server that ends in order takes its row along."""
    session.execute(delete(Server).where(Server.id == server_id))


def alive(session: Session) -> Sequence[Server]:
    """All servers that can be asked."""
    return session.scalars(select(Server).where(_ALIVE).order_by(Server.id)).all()


def find(session: Session, base_model: str) -> Sequence[Server]:
    """The servers that serve this base, best first: those made for it, then the longest standing."""
    return session.scalars(
        select(Server)
        .where(_ALIVE, or_(Server.base_model == base_model, Server.base_model.is_(None)))
        .order_by(Server.base_model.is_(None), Server.started_at, Server.id)
    ).all()


_ALIVE = or_(Server.beat_at > db_now() - ALIVE_S, Server.device == EXTERNAL)
