"""Celery's entry: `celery -A worker.app worker --pool threads --concurrency 1`.

A task is a ring of the doorbell and says only "look"; the drain starts with `worker_shutting_down`, since the
process itself ends only when the task does.
"""

from __future__ import annotations

import sys
from typing import Any

import structlog
from celery.signals import worker_ready, worker_shutdown, worker_shutting_down

from core import collector
from core.broker.doorbell import LOOK, celery_app
from core.errors import AttuneError
from core.logs import configure_logs
from core.settings import load_settings
from worker.engine_process import EngineDied
from worker.runner import NameTaken, Runner

settings = load_settings()
app = celery_app(settings)
app.set_default()
log = structlog.get_logger()
_runners: list[Runner] = []  # one, once the worker is ready


@app.task(name=LOOK)
def look() -> None:
    """Claim and run jobs until nothing fits this worker."""
    for runner in _runners:
        runner.look()


@worker_ready.connect
def _start(**_: Any) -> None:
    configure_logs(settings)
    try:
        runner = Runner(settings)
        _runners.append(runner)  # before it has started: the drain of a starting worker has to reach it
        runner.start()
    except (NameTaken, EngineDied, AttuneError) as error:  # else Celery goes on, with a worker that takes nothing
        log.error("worker_not_started", why=str(error))
        sys.exit(1)
    collector.spare()
    app.send_task(LOOK, exchange="", routing_key=app.conf.task_default_queue, retry=False)


@worker_shutting_down.connect
def _drain(**_: Any) -> None:
    for runner in _runners:
        runner.drain()


@worker_shutdown.connect
def _close(**_: Any) -> None:
    for runner in _runners:
        runner.close()
