"""The web side's housekeeping thread: rings again, ends expired leases, removes leftovers.

Several web processes may run it at once: everything it does is a compare-and-set or may be done twice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from core import replay, workers
from core.access import sign_ins
from core.bases import catalog
from core.batches import claims as batch_claims
from core.broker.doorbell import Doorbell
from core.db import Database
from core.doctor import tasks as doctor_tasks
from core.errors import AttuneError
from core.jobs import losses
from core.settings import Settings
from core.store.storage import Storage
from core.upkeep import cleaning

log = structlog.get_logger()
CLEAN_EVERY = 12  # rounds; leftovers can wait longer than leases
UPLOADS_EVERY_S = 24 * 3600.0


class Janitor:
    """`start` and `stop` bracket the web process's life."""

    def __init__(self, settings: Settings, database: Database, storage: Storage, doorbell: Doorbell) -> None:
        self._settings = settings
        self._database = database
        self._storage = storage
        self._doorbell = doorbell
        self._has_registered = False  # the bases
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="janitor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        rounds = 0
        uploads_swept_at = time.monotonic()
        while not self._stopping.wait(self._settings.janitor_interval_s):
            self._do("end_expired_leases", self._end_expired_leases)
            self._do("ring", self._doorbell.ring_idle)
            if rounds % CLEAN_EVERY == 0:
                self._do("clean", self._clean)
            rounds += 1
            if time.monotonic() - uploads_swept_at > UPLOADS_EVERY_S:
                uploads_swept_at = time.monotonic()
                self._do("sweep_uploads", self._sweep_uploads)

    def _do(self, name: str, task: Callable[[], int]) -> None:
        try:
            done = task()
        except AttuneError as error:
            log.warning("janitor_task_failed", task=name, error=error.message)
            return
        except Exception:
            # One task's bug must not end the others: leases have to be ended whatever happens
            log.exception("janitor_task_broke", task=name)
            return
        if done:
            log.info("janitor", task=name, done=done)

    def _end_expired_leases(self) -> int:
        with self._database.begin() as session:
            ended = losses.end_expired(session) + batch_claims.end_expired(session)
            return ended + doctor_tasks.end_expired(session)

    def _sweep_uploads(self) -> int:
        return cleaning.sweep_unnamed_uploads(self._database, self._storage, UPLOADS_EVERY_S)

    def _clean(self) -> int:
        with self._database.begin() as session:
            if not self._has_registered:  # this process may have begun without its database
                catalog.register(session, self._settings)
            workers.forget_dead(session)
            replay.forget_old(session)
            doctor_tasks.forget_old(session)
            sign_ins.forget_expired(session)
        self._has_registered = True
        removed = cleaning.sweep_finished_jobs(self._database, self._storage, 2 * self._settings.lease_s)
        removed += cleaning.sweep_ended_batches(self._database, self._storage, 2 * self._settings.lease_s)
        removed += cleaning.remove_uploads(self._database, self._storage)
        removed += cleaning.remove_files(self._database, self._storage)
        removed += cleaning.forget_audited(self._database, self._settings.audit_keep_days)
        return removed + cleaning.remove_models(self._database, self._storage)
