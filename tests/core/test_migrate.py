"""Upgrades: from every earlier revision with a row in each table, on both databases, nothing is lost or changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import JSON, Boolean, Connection, DateTime, LargeBinary, MetaData, Table, insert, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import Float, Integer, Numeric

from core import migrate
from core.db import open_database
from core.upkeep import readiness

ROOT = Path(__file__).parent.parent.parent
REVISIONS = [script.revision for script in reversed(list(ScriptDirectory(str(ROOT / "migrations")).walk_revisions()))]
# Tables and columns that a later revision calls by another name
RENAMED = {"job_requests": ("creations", {"job_id": "object_id", "body_sha256": "request_sha256"})}


def _value(column: Any, table: str) -> Any:
    """Something for the column; a text is the same everywhere, so that foreign keys hold."""
    if isinstance(column.type, Boolean):
        return False
    if isinstance(column.type, JSON):
        return ["a"]
    if isinstance(column.type, Integer | Float | Numeric):
        return 1
    if isinstance(column.type, LargeBinary):
        return b"a"
    assert not isinstance(column.type, DateTime)
    return "failed" if (table, column.name) == ("jobs", "status") else "a"


def _fill(connection: Connection) -> dict[str, dict[str, Any]]:
    """One row in every table; table -> the row."""
    metadata = MetaData()
    metadata.reflect(connection)
    rows: dict[str, dict[str, Any]] = {}
    for table in metadata.sorted_tables:
        if table.name == "alembic_version":
            continue
        connection.execute(insert(table), {column.name: _value(column, table.name) for column in table.columns})
        rows[table.name] = dict(connection.execute(select(table)).mappings().one())
    return rows


@pytest.mark.parametrize("revision", REVISIONS[:-1])
def test_every_row_of_an_earlier_revision_is_still_there(revision: str, database_url: str) -> None:
    database = open_database(database_url)
    migrate.upgrade(database, revision)
    assert revision in readiness.migrations(database)
    with database.engine.begin() as connection:
        before = _fill(connection)
    assert {"projects", "files", "jobs", "models"} <= set(before)
    migrate.upgrade(database)
    assert readiness.migrations(database) == "ok"
    with database.engine.begin() as connection:
        metadata = MetaData()
        metadata.reflect(connection)
        for name, row in before.items():
            table, columns = RENAMED.get(name, (name, {}))
            now = dict(connection.execute(select(metadata.tables[table])).mappings().one())
            assert {column: now[columns.get(column, column)] for column in row} == row, name
        jobs: Table = metadata.tables["jobs"]
        with pytest.raises(DBAPIError, match="final"), connection.begin_nested():
            connection.execute(update(jobs).values(status="running"))
        assert connection.scalar(text("SELECT status FROM jobs")) == "failed"
    database.close()
