"""The worker's second lane: batches are answered beside a job that trains, since their weights lie in a server.

Rung by the doorbell, and looking by itself now and then: while the worker trains, no ring reaches it.
"""

from __future__ import annotations

import asyncio
import shutil
import threading
from pathlib import Path

import structlog

from core.batches import claims as batch_claims
from core.batches import finish as batch_finish
from core.batches.claims import BatchClaim
from core.batches.models import BatchStatus
from core.errors import AttuneError, Unavailable
from core.jobs.holding import Holding
from core.serving.serve_token import serve_token
from core.store.storage import StorageConflict, StorageCorrupt, StorageMissing
from worker.attempt import LeaseLost, Place
from worker.batch_run import BatchRun

log = structlog.get_logger()
LOOK_EVERY_S = 10.0


class BatchLane:
    """`start`, `look` for a ring, `stop` at the end of a worker that drains."""

    def __init__(self, place: Place, holder: str) -> None:
        self._place = place
        self._holder = holder
        self._rung = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def look(self) -> None:
        self._rung.set()

    def stop(self) -> None:
        """Returns when the running batch has been given back."""
        self._stopping.set()
        self._rung.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._rung.clear()
            try:
                while not self._place.draining() and (claim := self._claim()) is not None:
                    self._work(claim)
            except Unavailable as error:
                log.warning("batches_wait", error=error.message)
            self._rung.wait(LOOK_EVERY_S)

    def _claim(self) -> BatchClaim | None:
        with self._place.database.begin() as session:
            return batch_claims.claim_lines(session, self._holder, self._place.settings.lease_s)

    def _work(self, claim: BatchClaim) -> None:
        place = self._place
        lease_s, beat_s = place.settings.lease_s, place.settings.beat_s
        scratch = place.work_dir / f"{claim.object_id}-{claim.attempt}"
        scratch.mkdir(parents=True)
        log.info("batch_claimed", batch=claim.object_id, attempt=claim.attempt, line=claim.batch.answered + 1)
        try:
            with Holding(place.database, claim, lease_s=lease_s, beat_s=beat_s) as holding:
                self._try(claim, holding, scratch)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _try(self, claim: BatchClaim, holding: Holding, scratch: Path) -> None:
        """Every way in which a claim may end."""
        try:
            self._advance(claim, holding, scratch)
        except LeaseLost:
            log.warning("batch_attempt_lost", batch=claim.object_id, attempt=claim.attempt)
        except (AttuneError, StorageMissing, StorageCorrupt, StorageConflict) as error:
            self._lose(claim, holding, str(error))
        except Exception:
            # Ours to mend. Saying so at once is kinder than a lease that runs out without a word
            log.exception("batch_broke", batch=claim.object_id, attempt=claim.attempt)
            self._lose(claim, holding, "an error of the worker")

    def _advance(self, claim: BatchClaim, holding: Holding, scratch: Path) -> None:
        place = self._place
        with place.database.begin() as session:
            flags = claim.beat(session, place.settings.lease_s)
        if not holding.seen(flags):
            raise LeaseLost
        why = "cancelled" if holding.flags.cancel else "over_time" if holding.flags.over_time else None
        if claim.batch.status == BatchStatus.IN_PROGRESS and why is None:
            path = scratch / "input.jsonl"
            batch_finish.fetch_input(place.database, place.storage, claim.batch, path)
            why = asyncio.run(BatchRun(place, claim, holding, path, serve_token(place.settings)).answer())
        if why in ("drained", "turn_over"):
            holding.settle()
            with place.database.begin() as session:
                batch_claims.give_back(session, claim)
            return
        most = place.settings.max_line_bytes
        outcome = batch_finish.finish(place.database, place.storage, claim, holding, scratch, most)
        log.info("batch_ended", batch=claim.object_id, attempt=claim.attempt, outcome=outcome)

    def _lose(self, claim: BatchClaim, holding: Holding, why: str) -> None:
        log.warning("batch_lost", batch=claim.object_id, attempt=claim.attempt, why=why)
        holding.settle()
        with self._place.database.begin() as session:
            batch_claims.lose(session, claim)
