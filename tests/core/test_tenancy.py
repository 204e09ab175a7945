"""Postgres holds tenants apart where the application does not ask: queries without a filter, under a project."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import JSON, Boolean, Connection, LargeBinary, delete, func, insert, select, text, update
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.types import Float, Integer, Numeric

from core import migrate
from core.access import row_security, tenancy
from core.db import Database, Session
from core.models import ApiKey, CheckpointPermission, File, Job, Model, Project
from core.settings import Settings
from core.tables import Base
from core.upkeep.checkup import State, examine
from tests import services

TABLES = Base.metadata.tables
OF_TENANTS = sorted(row_security.RULES)
KINDS = {Boolean: False, Integer | Float | Numeric: 1, LargeBinary: b"x"}


def _fill(connection: Connection, project: str) -> None:
    """A row in each table of tenants, in which every text is the project's id, so that foreign keys hold."""

    def value(column: Any) -> Any:
        if isinstance(column.type, JSON):
            return [project]
        return next((given for kind, given in KINDS.items() if isinstance(column.type, kind)), project)

    for table in Base.metadata.sorted_tables:
        if table.name in OF_TENANTS:
            connection.execute(insert(table), {column.name: value(column) for column in table.columns})


@pytest.fixture(scope="module")
def url(postgres_server: services.Postgres) -> Iterator[str]:
    name = postgres_server.create_database()
    yield postgres_server.url(name)
    postgres_server.drop_database(name)


@pytest.fixture(scope="module")
def database(url: str) -> Iterator[Database]:
    """With rows of A and of B; one connection for all, so that a setting that stayed on it would show."""
    made = Database(url.replace("postgresql://", "postgresql+psycopg://"), pool_size=1)
    migrate.upgrade(made)
    with made.engine.begin() as connection:
        for project in ("A", "B"):
            _fill(connection, project)
    yield made
    made.close()


def _ids(session: Session, name: str) -> list[str]:
    """A text of each row that an unfiltered query finds."""
    column = next(column for column in TABLES[name].columns if column.primary_key and column.type.python_type is str)
    return sorted(session.scalars(select(column)))


def test_every_table_is_a_tenants_or_everybodys() -> None:
    assert set(TABLES) == set(row_security.RULES) | row_security.EVERYBODYS
    assert not set(row_security.RULES) & row_security.EVERYBODYS
    assert all("project_id" not in TABLES[name].columns for name in row_security.EVERYBODYS)


@pytest.mark.parametrize("name", OF_TENANTS)
def test_a_query_without_a_filter_finds_ones_own(database: Database, name: str) -> None:
    with database.read() as session:
        assert _ids(session, name) == ["A", "B"]
    for project in ("A", "B"):
        with tenancy.within(project), database.read() as session:
            assert _ids(session, name) == [project]
    with tenancy.within("C"), database.read() as session:
        assert _ids(session, name) == []
    with database.read() as session:
        assert _ids(session, name) == ["A", "B"]


def test_writing_without_a_filter_stays_within(database: Database) -> None:
    with tenancy.within("A"), database.begin() as session:
        assert session.execute(update(Job).values(suffix="changed")).rowcount == 1  # pyright: ignore[reportAttributeAccessIssue]
        session.execute(delete(ApiKey).where(ApiKey.id == "B"))
    with database.read() as session:
        assert {job.id: job.suffix for job in session.scalars(select(Job))} == {"A": "changed", "B": "B"}
        assert session.get(ApiKey, "B") is not None
    with pytest.raises(ProgrammingError, match="row-level security"), tenancy.within("A"), database.begin() as session:
        session.execute(update(File).values(project_id="B"))


def test_a_setting_ends_with_its_transaction_however_it_ends(database: Database) -> None:
    with pytest.raises(ProgrammingError), tenancy.within("A"), database.begin() as session:
        session.execute(text("SELECT no_such_column FROM jobs"))
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 2
    with tenancy.within("A"), database.read() as session:
        with tenancy.across(session):
            assert session.scalar(select(func.count()).select_from(Job)) == 2
        assert session.scalar(select(func.count()).select_from(Job)) == 1


def test_who_says_nothing_sees_nothing_be_it_the_owner(database: Database, url: str) -> None:
    with psycopg.connect(url) as connection:
        for name in OF_TENANTS:
            assert connection.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(name))).fetchall() == []
    with database.read() as session:
        assert row_security.weakness(session.connection()) is None


def test_a_shared_model_is_seen_and_stays_its_owners(database: Database) -> None:
    with database.begin() as session:
        session.add(CheckpointPermission(id="given", model_id="A", owner_project_id="A", project_id="B"))
    with tenancy.within("B"), database.begin() as session:
        assert _ids(session, "models") == ["A", "B"]
        assert _ids(session, "projects") == ["A", "B"]  # its owner's slug is in its id
        assert _ids(session, "checkpoint_permissions") == ["B", "given"]
        assert _ids(session, "jobs") == _ids(session, "checkpoints") == ["B"]
        assert session.scalar(select(Model.id).where(Model.id == "A").with_for_update(read=True)) == "A"
        session.execute(delete(CheckpointPermission))
    with database.read() as session:
        assert _ids(session, "checkpoint_permissions") == ["A", "given"]
    for table in (Model, Project):
        forbidden = update(table).where(table.id == "A").values(created_at=0)
        with pytest.raises(ProgrammingError, match="row-level"), tenancy.within("B"), database.begin() as session:
            session.execute(forbidden)


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("ALTER TABLE jobs NO FORCE ROW LEVEL SECURITY", "not forced on jobs"),
        ("RESET attune.project", None),
        ("SET attune.project = ''", "did not reach"),
    ],
)
def test_what_weakens_it_is_said(database: Database, statement: str, says: str | None) -> None:
    with database.engine.connect() as connection:
        connection.exec_driver_sql(statement)
        found = row_security.weakness(connection)
        connection.rollback()
    assert found is None if says is None else says in (found or "")


def test_the_dump_of_the_operations_page_has_every_tenant(
    database: Database, postgres_server: services.Postgres, url: str
) -> None:
    assert not database.is_sqlite
    command = [postgres_server.binaries / "pg_dump", "--enable-row-security", "--data-only", "--table=jobs", url]
    for options, tenants in (("-c attune.project=*", 2), ("", 0)):
        env = {**os.environ, "PGOPTIONS": options}
        dumped = subprocess.run(command, env=env, capture_output=True, check=True, text=True)
        assert sum(line.startswith(("A\t", "B\t")) for line in dumped.stdout.splitlines()) == tenants


def test_the_doctor_says_whether_it_holds(
    database: Database, postgres_server: services.Postgres, url: str, tmp_path: Path
) -> None:
    assert not database.is_sqlite
    strong = postgres_server.url(url.rpartition("/")[2], "postgres")
    for address, state, says in ((url, State.OK, "its own rows"), (strong, State.WARNING, "superuser")):
        findings = examine(Settings(data_dir=tmp_path, database_url=address, port=services.free_port()))
        [found] = [finding for finding in findings if finding.name == "row-level security"]
        assert (found.state, says in found.detail) == (state, True)
        assert bool(found.advice) == (state is State.WARNING)
