"""One running web side for each kind of deployment, a project of its own for each test, and what hears its webhooks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from api.beside.webhook_relay import Relay
from api.beside.webhook_sender import Sender
from core.settings import Settings
from tests import services
from tests.api.place import Place, Tenant, place
from tests.api.receiver import Receiver, receiver


@pytest.fixture(scope="session", params=["embedded", "distributed"])
def web(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """SQLite and a folder, or Postgres and S3."""
    values: dict[str, object] = {
        "data_dir": tmp_path_factory.mktemp(request.param),
        "log_level": "warning",
        "webhook_allow": "127.0.0.1",
    }
    if request.param == "distributed":
        postgres: services.Postgres = request.getfixturevalue("postgres_server")
        s3: services.S3 = request.getfixturevalue("s3_server")
        values["database_url"] = postgres.url(postgres.create_database())
        for name, value in s3.settings(s3.create_bucket(), "prefix").items():
            values[name.removeprefix("ATTUNE_").lower()] = value
    with place(Settings(**values)) as running:  # pyright: ignore[reportArgumentType]
        yield running


@pytest.fixture
def tenant(web: Place) -> Tenant:
    return web.tenant()


@pytest.fixture
def inbox() -> Iterator[Receiver]:
    with receiver() as running:
        yield running


@pytest.fixture
def relay(web: Place) -> Iterator[Relay]:
    relay = Relay(web.database, Sender("127.0.0.1", timeout_s=1.0), look_every_s=0.05)
    relay.start()
    yield relay
    relay.stop()
