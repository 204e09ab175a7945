"""Tell an idle worker to look: Celery is the doorbell, the job's row is the queue.

A message carries nothing but "look". Lost, late or doubled messages cost delay and never a job, since the
janitor rings again; so nothing here waits for a broker that is away, and nothing raises.
"""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import structlog
from celery import Celery
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from core.db import Database
from core.settings import Settings
from core.workers import idle_workers

LOOK = "attune.look"
log = structlog.get_logger()


def queue_of(worker_id: str) -> str:
    """Every worker has a queue of its own, so that a ring reaches just the idle one that is meant."""
    return "attune-" + re.sub(r"[^A-Za-z0-9_-]", "-", worker_id)


def celery_app(settings: Settings) -> Celery:
    """The app of both sides: early ack, no results, no remote control, no retries."""
    url = settings.resolved_broker_url
    options: dict[str, object]
    is_encrypted = urlsplit(url).scheme == "rediss"
    if urlsplit(url).scheme == "filesystem":
        folder = Path(urlsplit(url).path)
        for name in ("messages", "control"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        options = {
            "data_folder_in": str(folder / "messages"),
            "data_folder_out": str(folder / "messages"),
            "control_folder": str(folder / "control"),
            "polling_interval": 0.1,
        }
        url, transport = "filesystem://", "core.broker.filesystem:Transport"
    else:
        transport = "core.broker.redis:Transport"
        options = {"socket_connect_timeout": 2, "socket_timeout": 5, "polling_interval": 0.5, "max_retries": 1}
    app = Celery("attune", broker=url, set_as_current=False)
    app.conf.update(
        broker_transport=transport,
        broker_transport_options=options,
        # where the URL names no rules of its own (`?ssl_cert_reqs=…`); kombu would trust any certificate
        broker_use_ssl={"ssl_cert_reqs": ssl.CERT_REQUIRED} if is_encrypted else None,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,  # what else a server refuses is no reason to end, either
        task_ignore_result=True,
        task_acks_late=False,
        # no bound: an acknowledgement that a broken connection swallowed counts as unread for good, and one such ring
        # would be all that a bound of one lets in
        worker_prefetch_multiplier=0,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,  # our log lines are structured already
        task_default_queue=queue_of(settings.worker_name),
        task_create_missing_queues=True,
    )
    return app


class Doorbell:
    """Rings idle workers. One instance a process."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._app = celery_app(settings)
        self._database = database

    def ring(self, worker_id: str) -> bool:
        """Send one "look" to one worker; False when the broker could not take it."""
        try:
            # By `queue`: given an exchange and a routing key, Celery's router still sends to the default queue
            # Without an expiry, which would be judged by the worker's clock
            self._app.send_task(LOOK, queue=queue_of(worker_id), ignore_result=True, retry=False)
        except (KombuError, RedisError, OSError) as error:
            log.warning("doorbell_unheard", worker=worker_id, error=str(error))
            return False
        return True

    def ring_idle(self) -> int:
        """Ring once per idle worker, if anything is queued; returns how many were rung."""
        with self._database.read() as session:
            workers = idle_workers(session)
        return sum(self.ring(worker_id) for worker_id in workers)
