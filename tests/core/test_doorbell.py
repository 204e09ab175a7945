"""A ring reaches the worker that is meant, over each broker, whatever the ringing process is itself called."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from kombu.exceptions import OperationalError

from core import migrate
from core.broker.doorbell import LOOK, Doorbell, celery_app, queue_of
from core.db import open_database
from core.settings import Settings

WORKER = "gpu.two-worker-1"


@pytest.fixture(params=["file", "redis"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    url = "" if request.param == "file" else request.getfixturevalue("redis_url")
    return Settings(data_dir=tmp_path, broker_url=url, worker_name="web-machine-worker")


def _heard(settings: Settings, worker: str) -> list[str]:
    """The tasks that wait for the worker."""
    with celery_app(settings).connection() as connection, connection.SimpleQueue(queue_of(worker)) as queue:
        found: list[str] = []
        while True:
            try:
                message = queue.get(timeout=1)
            except queue.Empty:
                return found
            message.ack()
            found.append(message.headers["task"])


def test_a_ring_reaches_the_worker_that_is_meant(settings: Settings) -> None:
    database = open_database(settings.resolved_database_url)
    migrate.upgrade(database)
    assert Doorbell(settings, database).ring(WORKER)
    assert _heard(settings, "web-machine-worker") == []
    assert _heard(settings, WORKER) == [LOOK]
    database.close()


def test_a_message_cut_short_by_a_full_disk_is_none(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    database = open_database(settings.resolved_database_url)
    celery_app(settings)  # makes the folders
    (tmp_path / "broker" / "messages" / f"0_empty.{queue_of(WORKER)}.msg").touch()
    assert Doorbell(settings, database).ring(WORKER)
    assert _heard(settings, WORKER) == [LOOK]
    database.close()


@pytest.mark.parametrize(("url", "rule"), [("", ssl.CERT_REQUIRED), ("?ssl_cert_reqs=none", ssl.CERT_NONE)])
def test_an_encrypted_broker_has_to_show_a_certificate_unless_the_url_says_otherwise(
    url: str, rule: ssl.VerifyMode
) -> None:
    app = celery_app(Settings(broker_url=f"rediss://127.0.0.1:1/0{url}"))
    assert app.connection().ssl == {"ssl_cert_reqs": rule}


def test_a_broker_that_is_away_costs_no_more_than_the_ring(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, broker_url="redis://127.0.0.1:1/0")
    database = open_database(settings.resolved_database_url)
    assert not Doorbell(settings, database).ring(WORKER)
    with pytest.raises(OperationalError), celery_app(settings).connection() as connection:
        connection.ensure_connection(max_retries=1)
    database.close()
