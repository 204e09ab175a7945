"""The thread beside the janitor that brings events to their receivers, with a few more that wait for answers.

Several web processes may run it at once: endpoints are claimed (core.webhooks.queue). Of its threads, endpoints
that have failed lately get half at most, so that the dead do not delay the living.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import structlog

from api.beside.webhook_sender import Sender
from core import crash_points
from core.db import Database
from core.errors import AttuneError
from core.webhooks import outbox
from core.webhooks import queue as webhook_queue
from core.webhooks.queue import Due, EndpointClaim, Outcome

log = structlog.get_logger()
LOOK_EVERY_S = 0.5  # a worker moves jobs in a process of its own, and tells the row alone
THREADS = 16
FAILING_THREADS = THREADS // 2
AT_ONCE = 25  # deliveries to one endpoint that are read and settled together …
LONG_S = 5.0  # … if they take no longer
IN_A_ROW = 4  # such rounds under one claim
FORGET_EVERY_S = 3600.0
RENEW_EVERY_S = webhook_queue.LEASE_S / 3
STOP_S = 5.0


class Relay:
    """`start` and `stop` bracket the web process's life; `poke` after something was written that is due."""

    def __init__(self, database: Database, sender: Sender, *, look_every_s: float = LOOK_EVERY_S) -> None:
        self._database = database
        self._sender = sender
        self._look_every_s = look_every_s
        self._stopping = threading.Event()
        self._poked = threading.Event()
        self._lock = threading.Lock()
        self._working: dict[threading.Thread, EndpointClaim] = {}
        self._renewed_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="webhook-relay", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def poke(self) -> None:
        self._poked.set()

    def stop(self) -> None:
        """Ends after the tries that are being made, or without them: they are made again when their claim ends."""
        self._stopping.set()
        self._poked.set()
        deadline = time.monotonic() + STOP_S
        self._thread.join(STOP_S)
        for thread in list(self._working):
            thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        forgot_at = time.monotonic()
        while not self._stopping.is_set():
            self._poked.clear()
            try:
                self._look()
                if time.monotonic() - forgot_at > FORGET_EVERY_S:
                    forgot_at = time.monotonic()
                    self._forget()
            except AttuneError as error:
                log.warning("webhook_relay_waits", error=error.message)
            except Exception:
                # One row's bug must not end the deliveries of all others
                log.exception("webhook_relay_broke")
                self._stopping.wait(self._look_every_s)
            self._poked.wait(self._look_every_s)

    def _look(self) -> None:
        self._renew()
        with self._database.read() as session:
            if not webhook_queue.has_work(session):
                return
        with self._database.begin() as session:
            made = webhook_queue.spread(session)
        if made:
            crash_points.here("webhook.spread")
        with self._lock:
            free = THREADS - len(self._working)
            free_for_failing = FAILING_THREADS - sum(one.endpoint.failures > 0 for one in self._working.values())
        if free <= 0:
            return
        with self._database.begin() as session:
            claims = webhook_queue.claim(session, free, free_for_failing)
        for claim in claims:
            thread = threading.Thread(target=self._serve, args=(claim,), name="webhook-delivery", daemon=True)
            with self._lock:
                self._working[thread] = claim
            thread.start()

    def _renew(self) -> None:
        with self._lock:
            held = list(self._working.values())
        if held and time.monotonic() - self._renewed_at > RENEW_EVERY_S:
            with self._database.begin() as session:
                webhook_queue.renew(session, held)
            self._renewed_at = time.monotonic()

    def _serve(self, claim: EndpointClaim) -> None:
        """Deliver what is due to one endpoint, one after the other, until one fails."""
        try:
            for _ in range(IN_A_ROW):
                if self._stopping.is_set() or not self._deliver(claim):
                    break
            with self._database.begin() as session:
                webhook_queue.release(session, claim)
        except AttuneError as error:
            log.warning("webhook_delivery_unsettled", endpoint=claim.endpoint.id, error=error.message)
        finally:
            with self._lock:
                del self._working[threading.current_thread()]
            self._poked.set()  # there may be more, and a thread is free

    def _deliver(self, claim: EndpointClaim) -> bool:
        with self._database.begin() as session:
            dues = webhook_queue.next_due(session, claim, AT_ONCE)
        if not dues:
            return False
        tried = self._try(dues)
        with self._database.begin() as session:
            goes_on = webhook_queue.settle(session, claim, tried)
        crash_points.here("webhook.settled")
        due, outcome = tried[-1]
        if not outcome.is_delivered:
            log.info(
                "webhook_not_delivered",
                endpoint=claim.endpoint.id,
                delivery=due.delivery.id,
                status_code=outcome.status_code,
                error=outcome.error,
            )
        return goes_on

    def _try(self, dues: Sequence[Due]) -> list[tuple[Due, Outcome]]:
        """One after the other over one connection, until one fails, or they have taken long."""
        tried: list[tuple[Due, Outcome]] = []
        begun = time.monotonic()
        with self._sender.line(dues[0].url) as line:
            for due in dues:
                outcome = line.send(due.keys, due.event.id, outbox.body_of(due.event))
                tried.append((due, outcome))
                crash_points.here("webhook.sent")
                if not outcome.is_delivered or self._stopping.is_set() or time.monotonic() - begun > LONG_S:
                    break
        return tried

    def _forget(self) -> None:
        with self._database.begin() as session:
            forgotten = webhook_queue.forget_old(session)
        if forgotten:
            log.info("webhook_log_shortened", deliveries=forgotten)
