"""An empty store and a migrated database of each kind, and a hub that is a small server here."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from core import migrate
from core.db import Database, open_database
from core.store.storage import Storage, open_storage
from tests import services
from tests.core.stand_in_hub import MODEL, StandIn, base_files, stand_in_hub
from tests.core.stored import settings_of


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite database, for copies: every migration once a test is most of what many tests would take."""
    path = tmp_path_factory.mktemp("migrated") / "attune.db"
    _migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def migrated_name(postgres_server: services.Postgres) -> str:
    """The same on the Postgres server."""
    name = postgres_server.create_database()
    _migrate(_with_driver(postgres_server.url(name)))
    return name


def _migrate(url: str) -> None:
    database = open_database(url)
    migrate.upgrade(database)
    database.close()


def _with_driver(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


@pytest.fixture
def sqlite(migrated_file: Path, tmp_path: Path) -> Iterator[Database]:
    """Migrated, and without rows; for what does not depend on the kind of database."""
    database = open_database(f"sqlite:///{shutil.copy(migrated_file, tmp_path / 'attune.db')}")
    yield database
    database.close()


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """Migrated, and without rows."""
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite")
        return
    server: services.Postgres = request.getfixturevalue("postgres_server")
    name = server.create_database(request.getfixturevalue("migrated_name"))
    database = open_database(_with_driver(server.url(name)))
    yield database
    database.close()
    server.drop_database(name)


@pytest.fixture
def storage(storage_settings: dict[str, str]) -> Storage:
    return open_storage(settings_of(storage_settings))


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between a hub's failure and the next try."""
    monkeypatch.setattr("core.bases.hub._pause_s", lambda failures: 0.01)


@pytest.fixture
def hub(no_waiting: None) -> Iterator[StandIn]:
    with stand_in_hub() as server:
        server.repositories[MODEL] = base_files()
        yield server
