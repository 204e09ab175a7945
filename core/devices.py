"""The lease of a GPU that an engine and a server share: who holds it may put weights there, nobody else.

A loser leaves its name on the device's turn, a second row of the same table: the holder sees that it is wanted,
and once the device is free it goes to the one whose turn it is.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, and_, delete, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from core.db import db_now
from core.models import DeviceLease

TURN_S = 10.0  # a loser that has not asked again for this long has lost its turn


def device_id(host: str, device: str) -> str | None:
    """The name under which a device is leased, such as `host/cuda:0`; None for a CPU, which nobody has to leave."""
    kind, _, index = device.partition(":")
    return f"{host}/{kind}:{index or 0}" if kind == "cuda" else None


def acquire(session: Session, device_id: str, holder: str, ttl_s: float) -> bool:
    """Take the device (or renew it) for `ttl_s` seconds; True if it is `holder`'s now.

    False leaves the holder's name on the turn: ask again within TURN_S, and the device comes to you before it
    goes back to the one who holds it now.
    """
    mine = and_(DeviceLease.device_id == device_id, DeviceLease.holder == holder, DeviceLease.until >= db_now())
    held = session.scalar(select(DeviceLease.device_id).where(mine)) is not None
    turn = _turn(device_id)
    if (held or not is_wanted(session, device_id, holder)) and _take(session, device_id, holder, ttl_s):
        session.execute(delete(DeviceLease).where(DeviceLease.device_id == turn, DeviceLease.holder == holder))
        return True
    _take(session, turn, holder, TURN_S)
    return False


def renew(session: Session, device_id: str, holder: str, ttl_s: float) -> bool:
    """Go on holding the device. False: the lease had ended and another has it, so leave the device at once."""
    return _take(session, device_id, holder, ttl_s)


def release(session: Session, device_id: str, holder: str) -> None:
    """Give the device back, after the weights have left it."""
    for name in (device_id, _turn(device_id)):
        session.execute(delete(DeviceLease).where(DeviceLease.device_id == name, DeviceLease.holder == holder))


def is_wanted(session: Session, device_id: str, holder: str) -> bool:
    """Does another than `holder` wait for the device?"""
    waiting = select(DeviceLease.holder).where(
        DeviceLease.device_id == _turn(device_id), DeviceLease.holder != holder, DeviceLease.until >= db_now()
    )
    return session.scalar(waiting) is not None


def holder_of(session: Session, device_id: str) -> str | None:
    """Who holds the device now."""
    return session.scalar(
        select(DeviceLease.holder).where(DeviceLease.device_id == device_id, DeviceLease.until >= db_now())
    )


def _turn(device_id: str) -> str:
    return f"{device_id}#turn"


def _take(session: Session, name: str, holder: str, ttl_s: float) -> bool:
    """Write the lease unless another's is in force; one statement, so that of two takers one wins."""
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    free: ColumnElement[bool] = or_(DeviceLease.holder == holder, DeviceLease.until < db_now())
    values = {"holder": holder, "until": db_now() + ttl_s}
    taken = session.execute(
        insert(DeviceLease)
        .values(device_id=name, **values)
        .on_conflict_do_update(index_elements=[DeviceLease.device_id], set_=values, where=free)
        .returning(DeviceLease.device_id)
    )
    return taken.one_or_none() is not None
