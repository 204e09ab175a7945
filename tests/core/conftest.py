"""An empty store of each kind, and a hub that is a small server here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from core.storage import Storage, open_storage
from tests.core.stand_in_hub import MODEL, StandIn, base_files, stand_in_hub
from tests.core.stored import settings_of


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
