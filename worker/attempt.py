"""One attempt of one job as everything on the worker sees it: its claim, its folder, and fenced writes.

Every write goes through `core.jobs.claims` and so carries the attempt. The first refused one ends the attempt without
a trace but orphan objects, which the janitor removes. A database or store that is away is waited for, as long as
the lease can be held.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import structlog

from core import crash_points
from core.db import Database, Session
from core.errors import AttuneError, Unavailable
from core.jobs import claims, losses
from core.jobs.claims import Claim, Flags
from core.jobs.holding import Holding
from core.jobs.job_files import Inputs
from core.jobs.jobs import NewEvent
from core.models import Job
from core.protocol import WorkFolder
from core.settings import Settings
from core.spec import Resolved
from core.store.storage import Storage

log = structlog.get_logger()
RETRY_S = 1.0  # between two tries while a part is away

Result = TypeVar("Result")
StopReason = Literal["cancelled", "paused", "drained", "over_time"]


class LeaseLost(Exception):
    """Another attempt owns the job now; nothing more may be written."""


class LeftEarly(Exception):
    """The job was cancelled, paused or given back before its training began."""


@dataclass(frozen=True)
class Place:
    """What an attempt runs with."""

    settings: Settings
    database: Database
    storage: Storage
    work_dir: Path
    draining: Callable[[], bool]  # the worker was told to end


class Attempt:
    """Use `holding` as a context manager around the work. `finished` is set once the claim has ended."""

    def __init__(self, place: Place, claim: Claim, inputs: Inputs, on_lost: Callable[[], None]) -> None:
        self.place = place
        self.claim = claim
        self.inputs = inputs
        self.job: Job = claim.job
        self.resolved = Resolved.model_validate(self.job.resolved)
        self.folder = WorkFolder(place.work_dir / f"{self.job.id}-{claim.attempt}")
        self.prefix = f"projects/{self.job.project_id}/jobs/{self.job.id}/{claim.attempt}"  # of its objects
        self.log_file = self.folder.root / "engine.log"
        self.finished = False
        settings = place.settings
        self.holding = Holding(place.database, claim, lease_s=settings.lease_s, beat_s=settings.beat_s, on_lost=on_lost)

    @property
    def storage(self) -> Storage:
        return self.place.storage

    def scratch(self, name: str) -> Path:
        """A file of ours in the work folder."""
        return self.folder.root / name

    # Writing

    def must_hold(self) -> None:
        """Raises LeaseLost once the lease is, or may be, gone."""
        if self.holding.lost.is_set():
            raise LeaseLost

    def patiently(self, act: Callable[[], Result]) -> Result:
        """`act`, again and again while a part of the service is away. Raises LeaseLost when that takes too long,
        and Unavailable when the worker is to end."""
        while True:
            try:
                return act()
            except Unavailable as error:
                log.warning("waiting", job=self.job.id, attempt=self.claim.attempt, why=error.message)
                self.must_hold()
                if self.place.draining():
                    raise
                time.sleep(RETRY_S)

    def write(self, fenced: Callable[[Session], Flags | None]) -> None:
        """One transaction under the fence. Raises LeaseLost when it was refused."""

        def once() -> Flags | None:
            with self.place.database.begin() as session:
                return fenced(session)

        if not self.holding.seen(self.patiently(once)):
            raise LeaseLost

    def tell(self, text: str, level: Literal["info", "warn", "error"] = "info", **data: object) -> None:
        """Write an event that the user reads."""
        self.write(lambda session: claims.report(session, self.claim, [NewEvent(text, level=level, data=data)]))

    # The end of the attempt

    def wanted_stop(self) -> StopReason | None:
        """Why the job should not run on: its user, its longest duration, or the worker's end."""
        flags = self.holding.flags
        if flags.cancel:
            return "cancelled"
        if flags.pause:
            return "paused"
        if flags.over_time:
            return "over_time"
        return "drained" if self.place.draining() else None

    def left(self) -> bool:
        """Heed `wanted_stop` while no engine runs; True when the job has left this worker."""
        self.must_hold()
        why = self.wanted_stop()
        if why is not None:
            self.stop(why)
        return why is not None

    def stop(self, why: StopReason) -> None:
        """The job leaves with all that its snapshots hold."""
        if why == "over_time":
            limit = self.job.max_duration_s
            self.fail(
                "max_duration_exceeded",
                f"The job reached its longest duration of {limit:g} s; raise attune.max_duration_s to train longer.",
            )
        else:
            self.end(lambda session: claims.stop(session, self.claim, why))

    def fail(self, code: str, message: str, param: str | None = None) -> None:
        """The job cannot be done: its user or operator has to change something."""
        self.end(lambda session: claims.fail(session, self.claim, code=code, message=message, param=param))

    def lose(self, why: str, *, is_outage: bool = False) -> None:
        """This attempt came to nothing, and the next goes on from the newest snapshot. A worker that was told to
        end is no loss of the job's, and an outage no fault of its."""
        if self.place.draining():
            self.stop("drained")
        else:
            self.end(lambda session: losses.lose(session, self.claim, why, is_outage=is_outage))

    def end(self, last_write: Callable[[Session], bool]) -> None:
        """The write that ends the claim, together with the name of this attempt's log."""
        log_keys = [*self.job.log_keys, *self._store_log()]
        self.holding.settle()
        self.must_hold()

        def once() -> bool:
            with self.place.database.begin() as session:
                done = claims.report(session, self.claim, log_keys=log_keys) is not None and last_write(session)
                crash_points.here("final.written")
                return done

        if not self.patiently(once):
            raise LeaseLost
        crash_points.here("final.committed")
        self.finished = True

    def _store_log(self) -> list[str]:
        if not self.log_file.exists():
            return []
        key = f"{self.prefix}/engine.log"
        try:
            self.storage.put_file(key, self.log_file)
        except AttuneError as error:
            log.warning("engine_log_not_stored", job=self.job.id, attempt=self.claim.attempt, error=error.message)
            return []
        return [key]

    def clean(self) -> None:
        """Remove the work folder."""
        shutil.rmtree(self.folder.root, ignore_errors=True)
