"""Fixtures for every test: real servers, each started when a test first asks for it and ended with the session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

# Before anything imports torch: no hub is asked, and a session's processes share two cores without spinning.
os.environ.update(
    HF_HUB_OFFLINE="1",
    OMP_NUM_THREADS="1",
    OMP_WAIT_POLICY="PASSIVE",
    TOKENIZERS_PARALLELISM="false",
    NO_PROXY="127.0.0.1,localhost",
    no_proxy="127.0.0.1,localhost",
)
for name in [name for name in os.environ if name.startswith("ATTUNE_")]:
    del os.environ[name]  # the developer's own service is no part of a test

from tests import services  # noqa: E402

# Where several processes share the tests, these begin: long ones begun last are waited for alone
LONG = (
    "tests/e2e",
    "tests/faults",
    "tests/api/test_fuzz",
    "tests/dashboard",
    "tests/contract",
    "tests/cli",
    "tests/bench",
    "tests/engine",
)
TOGETHER = ("tests/contract", "tests/dashboard")


class TogetherScheduling(LoadFileScheduling):
    """A file goes to one process, or a package of which all files ask the same running service."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return next((package for package in TOGETHER if file.startswith(package)), file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer | None) -> TogetherScheduling:
    return TogetherScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: next((at for at, name in enumerate(LONG) if item.nodeid.startswith(name)), len(LONG)))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[services.Postgres]:
    with services.postgres() as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[services.Redis]:
    with services.redis() as server:
        yield server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[services.S3]:
    with services.s3() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: services.Postgres) -> Iterator[str]:
    """`postgresql://…` of a fresh empty database, dropped after the test."""
    name = postgres_server.create_database()
    yield postgres_server.url(name)
    postgres_server.drop_database(name)


_redis_numbers = count()


@pytest.fixture
def redis_url(redis_server: services.Redis) -> str:
    """An empty numbered database that no other test sees."""
    return redis_server.url(next(_redis_numbers))


@pytest.fixture
def s3_settings(s3_server: services.S3) -> dict[str, str]:
    """The ATTUNE_… variables of an empty bucket."""
    return s3_server.settings(s3_server.create_bucket(), "prefix")


@pytest.fixture(scope="session")
def small_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo base after a few steps of pre-training: real in every part, and good for nothing. Copy it."""
    from tests.live import BASE, make_base  # not above: it brings the openai package, which few tests need

    return make_base(tmp_path_factory.mktemp("base") / BASE, steps=12)


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database's URL as SQLAlchemy wants it, with its driver."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'attune.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


@pytest.fixture(params=["folder", "s3"])
def storage_settings(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The ATTUNE_… variables of an empty store."""
    if request.param == "folder":
        return {"ATTUNE_STORAGE_URL": (tmp_path / "objects").as_uri()}
    settings: dict[str, str] = request.getfixturevalue("s3_settings")
    return settings
