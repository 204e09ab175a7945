"""A worker whose Redis takes no writes lives on, and is rung as soon as it does again."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from core import migrate
from core.broker.doorbell import Doorbell, queue_of
from core.db import open_database
from core.settings import Settings
from tests import services
from tests.live import ROOT
from tests.services import program

UP_S = 60.0
REFUSED_S = 4.0
WORKER = "one"
COMMAND = [sys.executable, "-m", "celery", "--quiet", "-A", "worker.app", "worker", "--pool", "threads",
           "--concurrency", "1", "--without-gossip", "--without-mingle", "--without-heartbeat"]  # fmt: skip


def full(broker: redis.Redis) -> None:
    broker.config_set("maxmemory-policy", "noeviction")
    broker.config_set("maxmemory", "1")


def replica(broker: redis.Redis) -> None:
    broker.execute_command("REPLICAOF", "127.0.0.1", "1")


def take_again(broker: redis.Redis) -> None:
    broker.execute_command("REPLICAOF", "NO", "ONE")
    broker.config_set("maxmemory", "0")


@pytest.fixture(scope="module")
def server() -> Iterator[services.Redis]:
    """Of its own: what is done to it would hit every other test."""
    with services.redis() as running:
        yield running


@pytest.fixture
def settings(tmp_path: Path, server: services.Redis) -> Settings:
    settings = Settings(data_dir=tmp_path / "data", broker_url=server.url(), worker_name=WORKER)
    database = open_database(settings.resolved_database_url)
    migrate.upgrade(database)
    database.close()
    return settings


@pytest.mark.parametrize("harm", [full, replica])
def test_a_worker_outlives_a_redis_that_takes_no_writes(
    harm: Callable[[redis.Redis], None], settings: Settings, server: services.Redis, tmp_path: Path
) -> None:
    own = {
        "ATTUNE_DATA_DIR": str(settings.data_dir),
        "ATTUNE_BROKER_URL": settings.broker_url,
        "ATTUNE_WORKER_NAME": WORKER,
        "ATTUNE_ENGINE_MODULE": "tests.faults.fake_engine",
    }
    log = tmp_path / "worker.log"
    database = open_database(settings.resolved_database_url)
    doorbell = Doorbell(settings, database)
    with redis.Redis.from_url(server.url()) as broker:

        def hears() -> bool:
            """Is a ring taken out of the worker's queue at once?"""
            assert doorbell.ring(WORKER)
            time.sleep(0.3)
            return broker.llen(queue_of(WORKER)) == 0

        def until_it_hears() -> None:
            deadline = time.monotonic() + UP_S
            while not hears():
                assert time.monotonic() < deadline, log.read_text()

        harm(broker)  # it starts in front of closed doors
        try:
            with program(COMMAND, log=log, ready=lambda: True, env={**os.environ, **own}, cwd=ROOT) as worker:
                while "broker_refuses" not in log.read_text():
                    assert worker.poll() is None, log.read_text()
                    time.sleep(0.2)
                take_again(broker)
                until_it_hears()
                harm(broker)  # and finds them closed again
                time.sleep(REFUSED_S)
                take_again(broker)
                until_it_hears()
                assert worker.poll() is None, log.read_text()
        finally:
            take_again(broker)
            broker.flushall()
            database.close()
    assert "Traceback" not in log.read_text()
    assert "Unrecoverable" not in log.read_text()
