"""`python -m core.migrate`: bring the database to the newest revision; `--check`: is a migration missing?

The guards of terminal states live here too, since every migration that copies their table has to make them anew.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.engine import Connection

from core.access.grants import take_back
from core.batches.models import ENDED
from core.db import Database, open_database
from core.models import TERMINAL
from core.settings import load_settings
from core.tables import Base

_MIGRATION_LOCK = 4_021_911  # advisory lock key: two starting processes migrate one after the other


def create_triggers(connection: Connection) -> None:
    """Make (again) the trigger that refuses to move a job out of a terminal state."""
    _make_final(connection, "jobs", "job", TERMINAL)


def create_batch_triggers(connection: Connection) -> None:
    """The same for batches."""
    _make_final(connection, "batches", "batch", ENDED)


def _make_final(connection: Connection, table: str, name: str, ends: Sequence[str]) -> None:
    trigger = f"{table}_terminal_is_final"
    ended = ", ".join(f"'{status}'" for status in ends)
    moves = f"OLD.status IN ({ended}) AND NEW.status <> OLD.status"
    message = f"a finished {name} is final"
    if connection.dialect.name == "sqlite":
        connection.execute(text(f"DROP TRIGGER IF EXISTS {trigger}"))
        connection.execute(
            text(
                f"CREATE TRIGGER {trigger} BEFORE UPDATE OF status ON {table} WHEN {moves} "
                f"BEGIN SELECT RAISE(ABORT, '{message}'); END"
            )
        )
        return
    connection.execute(
        text(
            f"CREATE OR REPLACE FUNCTION {trigger}() RETURNS trigger AS $$ BEGIN "
            f"RAISE EXCEPTION '{message}' USING ERRCODE = 'check_violation'; END $$ LANGUAGE plpgsql"
        )
    )
    connection.execute(text(f"DROP TRIGGER IF EXISTS {trigger} ON {table}"))
    connection.execute(
        text(
            f"CREATE TRIGGER {trigger} BEFORE UPDATE OF status ON {table} FOR EACH ROW "
            f"WHEN ({moves}) EXECUTE FUNCTION {trigger}()"
        )
    )


def create_audit_triggers(connection: Connection) -> None:
    """Make the triggers that let nobody change the audit log, nor remove what is younger than a day."""
    young = "OLD.created_at > {now} - 86400"
    if connection.dialect.name == "sqlite":
        young = young.format(now="((julianday('now') - 2440587.5) * 86400.0)")
        for name, event, condition in (("kept", "UPDATE", "TRUE"), ("lasts", "DELETE", young)):
            connection.execute(
                text(
                    f"CREATE TRIGGER audit_log_{name} BEFORE {event} ON audit_log WHEN {condition} "
                    "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
                )
            )
        return
    young = young.format(now="EXTRACT(EPOCH FROM clock_timestamp())")
    connection.execute(
        text(
            "CREATE OR REPLACE FUNCTION audit_log_is_append_only() RETURNS trigger AS $$ BEGIN "
            "RAISE EXCEPTION 'the audit log is append-only' USING ERRCODE = 'check_violation'; END $$ LANGUAGE plpgsql"
        )
    )
    for name, event, condition in (("kept", "UPDATE", "TRUE"), ("lasts", "DELETE", young)):
        connection.execute(
            text(
                f"CREATE TRIGGER audit_log_{name} BEFORE {event} ON audit_log FOR EACH ROW "
                f"WHEN ({condition}) EXECUTE FUNCTION audit_log_is_append_only()"
            )
        )


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent.parent / "migrations"))
    config.attributes["connection"] = connection
    return config


def upgrade(database: Database, revision: str = "head") -> None:
    """Run the migrations up to `revision`, in one transaction."""
    with database.engine.connect() as connection:
        if database.is_sqlite:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        command.upgrade(_config(connection), revision)
        take_back(connection)
        connection.commit()


def missing_changes(database: Database) -> list[object]:
    """What the tables in `core.models` and its neighbours have that the migrated database has not."""
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, Base.metadata))


def write_revision(message: str) -> None:
    """`python -m core.migrate --revision "what changes"`: a new migration from the difference."""
    with tempfile.TemporaryDirectory() as folder:
        database = open_database(f"sqlite:///{folder}/new.db")
        upgrade(database)
        with database.engine.connect() as connection:
            command.revision(_config(connection), message=message, autogenerate=True)
        database.close()


def main() -> int:
    if sys.argv[1:2] == ["--revision"]:
        write_revision(sys.argv[2])
        return 0
    if sys.argv[1:] == ["--check"]:
        with tempfile.TemporaryDirectory() as folder:
            database = open_database(f"sqlite:///{folder}/check.db")
            upgrade(database)
            missing = missing_changes(database)
            database.close()
        for change in missing:
            print("no migration for:", change, file=sys.stderr)
        return 1 if missing else 0
    database = open_database(load_settings().resolved_database_url)
    upgrade(database)
    database.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
