"""Whose rows a transaction may see, whatever its queries ask for: Postgres holds tenants apart a second time.

A request of a tenant runs within its project; workers, the janitor and operators run across all of them. A
connection starts as `EVERY`, and a tenant's transaction says otherwise for itself alone, as it begins (core.db).
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session

SETTING = "attune.project"
EVERY = "*"
_project: ContextVar[str] = ContextVar("project", default=EVERY)


@contextmanager
def within(project_id: str) -> Generator[None]:
    """All transactions that begin in this block, and in threads and tasks started by it, are the project's."""
    token = _project.set(project_id)
    try:
        yield
    finally:
        _project.reset(token)


def current() -> str:
    """The project that transactions begin in, or `EVERY`."""
    return _project.get()


@contextmanager
def across(session: Session) -> Generator[None]:
    """See every tenant's rows in this block, for a question that is about another's; say beside it why."""
    connection = session.connection()
    if connection.dialect.name != "postgresql" or current() == EVERY:
        yield
        return
    _set(connection, EVERY)
    yield
    _set(connection, current())  # not after an error: the transaction is over then, and the setting with it


def _set(connection: Connection, project: str) -> None:
    # true: until the transaction ends
    connection.execute(text("SELECT set_config(:setting, :project, true)"), {"setting": SETTING, "project": project})
