"""An empty store and a migrated database of each kind, and a hub that is a small server here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from core import migrate
from core.db import Database, open_database
from core.storage import Storage, open_storage
from tests.core.stand_in_hub import MODEL, StandIn, base_files, stand_in_hub
from tests.core.stored import settings_of


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """Migrated, and without rows."""
    database = open_database(database_url)
    migrate.upgrade(database)
    yield database
    database.close()


@pytest.fixture
def storage(storage_settings: dict[str, str]) -> Storage:
    return open_storage(settings_of(storage_settings))


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between a hub's failure and the next try."""
    monkeypatch.setattr("core.hub._pause_s", lambda failures: 0.01)


@pytest.fixture
def hub(no_waiting: None) -> Iterator[StandIn]:
    with stand_in_hub() as server:
        server.repositories[MODEL] = base_files()
        yield server
