"""Carries out the doctor's tasks: claims one, hands its files to a process of their own, keeps what comes of it.

Runs as a thread of the preparation child, since it waits for that process and computes next to nothing.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import structlog
from sqlalchemy.orm import Session

from core import ids
from core.bases import catalog
from core.data.examples import Checker
from core.db import Database
from core.doctor import tasks as doctor_tasks
from core.doctor.child import Child
from core.doctor.models import TaskKind
from core.doctor.orders import Base, Convert, Order, Progress, Reading, Repair, Report, Split
from core.doctor.tasks import TaskClaim
from core.errors import AttuneError, NotFound, Unavailable
from core.files import files
from core.files.files import FINE_TUNE, Received, storage_key
from core.models import BaseModelRow, Job
from core.serving import published
from core.settings import Settings
from core.store.storage import Storage, StorageMissing

log = structlog.get_logger()
TIME_LIMIT_S = 1800.0
POLL_S = 1.0  # for tasks that another web process accepted
TELL_EVERY_S = 1.0
DEFAULT_MAX_TOKENS = 4096  # where the base does not say how much it takes
_READ_BYTES = 1024 * 1024
_MAX_LINE_BYTES = 256 * 1024**2


class Desk:
    """`start` once; `poke` says that there may be something to do."""

    def __init__(self, settings: Settings, database: Database, storage: Storage, holder: str) -> None:
        self._settings = settings
        self._database = database
        self._storage = storage
        self._holder = holder
        self._poked = threading.Event()

    def start(self) -> None:
        with self._database.begin() as session:
            doctor_tasks.end_claims_of(session, self._holder)
        threading.Thread(target=self._run, name="doctor", daemon=True).start()

    def poke(self) -> None:
        self._poked.set()

    def _run(self) -> None:
        while True:
            try:
                while self.look():
                    pass
            except Unavailable as error:
                log.warning("doctor_waits", error=error.message)
            except Exception:
                log.exception("doctor_broke")  # of this task; its lease ends, and the others have to go on
            self._poked.wait(POLL_S)
            self._poked.clear()

    def look(self) -> bool:
        """Carry out one task; False when there is none."""
        with self._database.begin() as session:
            claim = doctor_tasks.claim(session, self._holder, self._settings.lease_s)
        if claim is None:
            return False
        with tempfile.TemporaryDirectory(prefix="doctor-") as scratch:
            _Treatment(self._settings, self._database, self._storage, claim, Path(scratch)).carry_out()
        return True


class _Treatment:
    """One claimed task."""

    def __init__(
        self, settings: Settings, database: Database, storage: Storage, claim: TaskClaim, scratch: Path
    ) -> None:
        self._settings = settings
        self._database = database
        self._storage = storage
        self._claim = claim
        self._scratch = scratch
        self._progress = Progress("reading", 0.0)
        self._child: Child | None = None
        self._is_lost = threading.Event()
        self._is_done = threading.Event()

    def carry_out(self) -> None:
        beat = threading.Thread(target=self._beat, name="doctor-beat", daemon=True)
        beat.start()
        try:
            self._treat()
        except Unavailable as error:
            if error.code != "base_model_unavailable":
                raise  # the lease ends, and the task is tried again
            self._fail(error)
        except AttuneError as error:
            self._fail(error)
        finally:
            self._is_done.set()
            beat.join()

    def _fail(self, error: AttuneError) -> None:
        if not self._is_lost.is_set():
            with self._database.begin() as session:
                doctor_tasks.fail(session, self._claim, error)

    def _beat(self) -> None:
        renewed = time.monotonic()
        while not self._is_done.wait(TELL_EVERY_S):
            progress = self._progress
            try:
                with self._database.begin() as session:
                    is_mine = doctor_tasks.beat(
                        session, self._claim, self._settings.lease_s, progress.stage, progress.share
                    )
                renewed = time.monotonic()
            except Unavailable:
                is_mine = time.monotonic() - renewed < self._settings.lease_s / 2
            if not is_mine and not self._is_done.is_set():
                self._is_lost.set()
                if self._child is not None:
                    self._child.kill("lost")
                return

    def _treat(self) -> None:
        task = self._claim.task
        request = task.request
        source, filename = self._fetch(task.file_id, "source")
        out, other = self._scratch / "out", self._scratch / "other"
        stem = filename.rpartition(".")[0] or filename
        made: list[tuple[str, Path, str]] = []  # (field of the result, path, file name)
        order: Order
        if task.kind == TaskKind.CONVERSION:
            order = Convert(source, filename, msgspec.convert(request["reading"], Reading), str(out))
            made.append(("file_id", out, request.get("filename") or f"{stem}-converted.jsonl"))
        elif task.kind == TaskKind.SPLIT:
            order = Split(source, request["validation_share"], request["seed"], str(out), str(other))
            made.append(("training_file_id", out, f"{stem}-training.jsonl"))
            made.append(("validation_file_id", other, f"{stem}-validation.jsonl"))
        else:
            base, context = self._base(request.get("model"))
            max_tokens = int(request.get("max_tokens") or context)
            named = request.get("validation_file_id")
            validation = self._fetch(named, "validation")[0] if named else None
            if task.kind == TaskKind.REPORT:
                order = Report(source, validation, base, request["method"], max_tokens)
            else:
                path = None if request["dry_run"] else str(out)
                order = Repair(source, request["repairs"], path, validation, base, max_tokens)
                if path is not None:
                    made.append(("file_id", out, request.get("filename") or f"{stem}-repaired.jsonl"))
        self._child = Child(order)
        if self._is_lost.is_set():
            return
        result = self._child.run(self._tell, time_limit_s=TIME_LIMIT_S)
        if task.kind == TaskKind.REPAIR:
            result = {"file_id": None, **result}
        self._finish(result, made)

    def _tell(self, progress: Progress) -> None:
        self._progress = progress

    def _fetch(self, file_id: str, name: str) -> tuple[str, str]:
        """(path, file name) of a file of the project."""
        with self._database.read() as session:
            row = files.get(session, self._claim.task.project_id, file_id, param="file_id")
        path = self._scratch / name
        try:
            self._storage.fetch(row.storage_key, path, row.sha256)
        except StorageMissing as error:
            raise NotFound(f"No such File object: {file_id}", code="file_not_found", param="file_id") from error
        return str(path), row.filename

    def _base(self, model: str | None) -> tuple[Base | None, int]:
        if model is None:
            return None, DEFAULT_MAX_TOKENS
        with self._database.read() as session:
            row, date = base_of(session, self._claim.task.project_id, model)
        if row.status != "ready":
            row = catalog.make_ready(self._database, self._storage, self._settings, row)
        folder = catalog.light_folder(self._storage, row, self._settings.work_dir / "tokenizers")
        return Base(model, str(folder), date), row.context_tokens or DEFAULT_MAX_TOKENS

    def _finish(self, result: dict[str, Any], made: list[tuple[str, Path, str]]) -> None:
        """Store what was made; its rows and the task's result are one transaction."""
        self._progress = Progress("writing", 0.99)
        received: list[tuple[str, Received]] = []
        try:
            for field, path, filename in made:
                received.append((field, self._store(path, filename)))
            with self._database.begin() as session:
                for field, file in received:
                    files.create(session, self._claim.task.project_id, file)
                    result = {**result, field: file.id}
                if not doctor_tasks.succeed(session, self._claim, result):
                    raise AttuneError("The lease is lost.", code="task_lost")
        except Unavailable:
            raise  # what was committed is not known: an object too many is better than a row without one
        except BaseException:
            for _, file in received:
                self._storage.delete(file.storage_key)
            raise

    def _store(self, path: Path, filename: str) -> Received:
        file_id = ids.file_id()
        key = storage_key(self._claim.task.project_id, file_id)
        checker = Checker(_MAX_LINE_BYTES)

        def checked() -> Iterator[bytes]:
            with path.open("rb") as file:
                while block := file.read(_READ_BYTES):
                    checker.feed(block)
                    yield block

        stored = self._storage.put_stream(key, checked())
        return Received(file_id, files.clean_name(filename), FINE_TUNE, key, stored, checker.finish())


def base_of(session: Session, project_id: str, model: str) -> tuple[BaseModelRow, str]:
    """(a model's base, the date its template is frozen at). Raises NotFound for what the project may not use."""
    tuned = published.find(session, project_id, model)
    if tuned is None:
        return catalog.find(session, model), datetime.now(UTC).date().isoformat()
    job = session.get_one(Job, tuned.job_id)
    return session.get_one(BaseModelRow, tuned.base_model), job.template_date or datetime.now(UTC).date().isoformat()
