"""Can this process do its work now? One answer for each part that it stands on."""

from __future__ import annotations

from pathlib import Path

from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from core.db import Database
from core.errors import AttuneError
from core.storage import Storage


def migrations(database: Database) -> str:
    """ "ok", or which revision the database is at."""
    newest = ScriptDirectory(str(Path(__file__).parent.parent / "migrations")).get_current_head()
    with database.engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    return "ok" if current == newest else f"at {current}, not at {newest}: run `python -m core.migrate`"


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
