"""Can this process do its work now? One answer for each part that it stands on."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from pathlib import Path

from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from core.db import Database
from core.errors import AttuneError, Unavailable
from core.store.storage import Storage

_REVISION = text("SELECT version_num FROM alembic_version")


@cache
def newest_revision() -> str | None:
    """The revision that this code is written for."""
    return ScriptDirectory(str(Path(__file__).parents[2] / "migrations")).get_current_head()


def migrations(database: Database) -> str:
    """ "ok", or how the database's revision differs from this code's."""
    newest = newest_revision()
    try:
        current = _current_revision(database)
    except (OperationalError, InterfaceError) as error:
        raise Unavailable("the database cannot be reached", code="database_unavailable") from error
    if current == newest:
        return "ok"
    return f"at {current}, not at {newest}: run `python -m core.migrate` of the newest version, and start that version"


def _current_revision(database: Database) -> str | None:
    with suppress(DBAPIError), database.engine.connect() as connection:
        return connection.scalar(_REVISION)
    # There is no table yet, or the database is away; which of them takes a few questions, and a worker asks often
    with database.engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def parts(database: Database, storage: Storage) -> dict[str, str]:
    """database, migrations, storage -> "ok", or what is wrong."""
    found: dict[str, str] = {}
    for name, check in (("database", database.check), ("storage", storage.check)):
        try:
            check()
        except AttuneError as error:
            found[name] = error.message
        else:
            found[name] = "ok"
    found["migrations"] = migrations(database) if found["database"] == "ok" else "unknown"
    return found
