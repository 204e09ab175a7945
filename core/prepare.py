"""`python -m core.prepare`: the torch-free child that validates files, resolves autos and plans, one job at a time.
It validates the input of batches, too, and brings those to their end that no worker holds.

It holds the tokenizers and works under a claim like any worker; bounded in memory and time, it may die without
harm. A line on stdin means "look now"; the end of stdin means that the web process is gone.
"""

from __future__ import annotations

import datetime
import fcntl
import itertools
import os
import resource
import select
import signal
import socket
import sys
import tempfile
import time
from collections import OrderedDict
from dataclasses import asdict
from pathlib import Path
from types import FrameType

import structlog

from core import crash_points
from core.bases import catalog
from core.bases.model_shape import ModelShape, shape_of
from core.batches import claims as batch_claims
from core.batches import finish as batch_finish
from core.batches import input as batch_input
from core.batches.claims import BatchClaim
from core.batches.models import BatchStatus
from core.broker.doorbell import Doorbell
from core.data.examples import iter_examples, must_fit
from core.db import Database, open_database
from core.doctor.work import Desk
from core.errors import AttuneError, InvalidExample, Unavailable
from core.jobs import claims, job_files, losses
from core.jobs.claims import Claim
from core.jobs.holding import Holding
from core.logs import configure_logs
from core.models import BaseModelRow, File
from core.planning import dry_run, plan, token_lengths
from core.planning.data_counts import Counter, DataCounts
from core.planning.models import TokenCount
from core.planning.too_long import counted, fit
from core.rendering.render import Renderer
from core.rendering.sample_prompts import check_prompts
from core.settings import Settings, load_settings
from core.spec import JobSpec, Method, TooLong
from core.store.storage import Storage, StorageCorrupt, StorageMissing, open_storage

log = structlog.get_logger()
NICE = 5  # answers come before preparations, on a machine that is too small for both
MEMORY_LIMIT_BYTES = 6 * 1024**3  # address space, of which the tokenizers' libraries map about one
TIME_LIMIT_S = 3600  # for one job's files
IDLE_POLL_S = 2.0  # for jobs that another web process accepted
KEPT_RENDERERS = 4


class TookTooLong(AttuneError):
    """Raised by the alarm within the work on one job."""


class Preparer:
    """Claims jobs in `validating_files` and moves them to `queued` or `failed`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database: Database = open_database(settings.resolved_database_url)
        self._storage: Storage = open_storage(settings)
        self._doorbell = Doorbell(settings, self._database)
        self._holder = self._take_name()
        self._renderers: OrderedDict[tuple[str, str, str], Renderer] = OrderedDict()
        self._desk = Desk(settings, self._database, self._storage, self._holder)

    def _take_name(self) -> str:
        """The first name on this machine that no live child has: whatever it still holds is a dead one's."""
        folder = self._settings.work_dir
        folder.mkdir(parents=True, exist_ok=True)
        for slot in itertools.count():
            self._lock_file = (folder / f"prepare-{slot}.lock").open("w")
            try:
                fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._lock_file.close()
                continue
            return f"prepare-{socket.gethostname()}-{slot}"
        raise AssertionError("itertools.count does not end")

    def start(self) -> None:
        """End what a dead predecessor held, and take the doctor's tasks from now on."""
        with self._database.begin() as session:
            losses.end_claims_of(session, self._holder)
            batch_claims.end_claims_of(session, self._holder)
            token_lengths.end_claims_of(session, self._holder)
        self._desk.start()

    def look(self) -> None:
        """Prepare bases that are being added, then count files for plans, and take batches and jobs in turn."""
        self._desk.poke()
        catalog.prepare_waiting(self._database, self._storage, self._settings)
        while True:
            counted = self._count_lengths()
            with self._database.begin() as session:
                batch = batch_claims.claim_early(session, self._holder, self._settings.lease_s)
                claim = claims.claim_preparation(session, self._holder, self._settings.lease_s)
            if batch is not None:
                self._work_batch(batch)
            if claim is not None:
                crash_points.here("prepare.claimed")
                self._work(claim)
            if batch is not None or claim is not None:
                self._doorbell.ring_idle()
            elif not counted:
                return

    def _count_lengths(self) -> bool:
        """Count one file that a plan asks for. False: there was none."""
        lease_s = self._settings.lease_s
        with self._database.begin() as session:
            row = token_lengths.claim(session, self._holder, lease_s)
            if row is None:
                return False
            file = session.get_one(File, row.file_id)
            base = session.get_one(BaseModelRow, row.base_model)
        signal.alarm(TIME_LIMIT_S)
        try:
            if base.status != "ready":
                base = catalog.make_ready(self._database, self._storage, self._settings, base)
            lengths = self._lengths_of(file, base, row)
        except (Unavailable, StorageCorrupt) as error:
            log.warning("counting_waits", error=str(error))
            with self._database.begin() as session:
                token_lengths.give_up(session, row)
            return True
        except AttuneError as error:
            with self._database.begin() as session:
                token_lengths.failed(session, row, base.revision, error)
            return True
        finally:
            signal.alarm(0)
        with self._database.begin() as session:
            token_lengths.counted(session, row, base.revision, lengths)
        return True

    def _lengths_of(self, file: File, base: BaseModelRow, row: TokenCount) -> token_lengths.Lengths:
        """Render every example as the trainer will, renewing the claim on the way."""
        renderer = self._renderer(base, datetime.datetime.now(datetime.UTC).date().isoformat())
        counter, method = token_lengths.LengthCounter(), Method(row.method)
        renewed_at = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="count-") as scratch:
            path = Path(scratch) / "examples"
            self._storage.fetch(file.storage_key, path, file.sha256)
            for line, example in iter_examples(path):
                must_fit(example, method, line)
                counter.add(line, renderer.render_example(example, line))
                if time.monotonic() - renewed_at > self._settings.beat_s:
                    renewed_at = time.monotonic()
                    with self._database.begin() as session:
                        token_lengths.renew(session, row, self._settings.lease_s)
        return counter.lengths()

    def _work_batch(self, claim: BatchClaim) -> None:
        settings = self._settings
        with (
            tempfile.TemporaryDirectory(prefix="batch-") as scratch,
            Holding(self._database, claim, lease_s=settings.lease_s, beat_s=settings.beat_s) as holding,
        ):
            try:
                outcome = self._advance_batch(claim, holding, Path(scratch))
            except (Unavailable, StorageMissing, StorageCorrupt) as error:
                log.warning("batch_lost", batch=claim.object_id, error=str(error))
                holding.settle()
                with self._database.begin() as session:
                    batch_claims.lose(session, claim)
                return
        log.info("batch_advanced", batch=claim.object_id, outcome=outcome)

    def _advance_batch(self, claim: BatchClaim, holding: Holding, scratch: Path) -> BatchStatus | None:
        """Validate, or finish what was cancelled or ran out of time. None: the lease is lost."""
        most = self._settings.max_line_bytes
        with self._database.begin() as session:
            flags = claim.beat(session, self._settings.lease_s)
        if flags is None:
            return None
        if claim.batch.status != BatchStatus.VALIDATING or flags.cancel or flags.over_time:
            return batch_finish.finish(self._database, self._storage, claim, holding, scratch, most)
        path = scratch / "input.jsonl"
        batch_finish.fetch_input(self._database, self._storage, claim.batch, path)
        found = batch_input.check(path, claim.batch.endpoint, most)
        holding.settle()
        with self._database.begin() as session:
            if found.faults:
                faults = [asdict(fault) for fault in found.faults]
                return BatchStatus.FAILED if batch_claims.rejected(session, claim, faults) else None
            done = batch_claims.validated(session, claim, total=found.total, model=found.model)
            if not done:  # cancelled while it was read
                batch_claims.give_back(session, claim)
            return BatchStatus.IN_PROGRESS if done else None

    def _work(self, claim: Claim) -> None:
        settings = self._settings
        with Holding(self._database, claim, lease_s=settings.lease_s, beat_s=settings.beat_s) as holding:
            signal.alarm(TIME_LIMIT_S)
            try:
                self._prepare(claim, holding)
            except Unavailable as error:
                if error.code != "base_model_unavailable":
                    holding.settle()
                    with self._database.begin() as session:
                        losses.lose(session, claim, error.message, is_outage=True)
                    return
                self._fail(claim, holding, error)
            except (StorageCorrupt, StorageMissing) as error:
                log.warning("preparation_lost", job=claim.job_id, attempt=claim.attempt, error=str(error))
                holding.settle()
                with self._database.begin() as session:
                    losses.lose(session, claim, "a file came back from the storage changed, or not at all")
            except AttuneError as error:
                self._fail(claim, holding, error)
            finally:
                signal.alarm(0)

    def _fail(self, claim: Claim, holding: Holding, error: AttuneError) -> None:
        holding.settle()
        with self._database.begin() as session:
            claims.fail(
                session, claim, code=error.code or "invalid_training_file", message=error.message, param=error.param
            )

    def _prepare(self, claim: Claim, holding: Holding) -> None:
        spec = JobSpec.model_validate(claim.job.spec)
        with self._database.read() as session:
            base = session.get_one(BaseModelRow, spec.base_model)
        if base.status != "ready":
            base = catalog.make_ready(self._database, self._storage, self._settings, base)
        with self._database.read() as session:
            inputs = job_files.inputs_of(session, claim.job)
        date = datetime.datetime.now(datetime.UTC).date().isoformat()
        renderer = self._renderer(base, date)
        shape = shape_of(base.shape or {}, base.parameters)
        with tempfile.TemporaryDirectory(prefix="prepare-") as scratch:
            training = self._count(inputs.training, renderer, Path(scratch), "training_file", spec, shape)
            validation = None
            if inputs.validation is not None:
                validation = self._count(inputs.validation, renderer, Path(scratch), "validation_file", spec, shape)
        resolved, reasons = plan.resolve(spec.hyperparameters, training, validation, shape, spec.method)
        check_prompts(renderer, resolved.sample_prompts, shape.context)
        summary = dry_run.summary(resolved, shape, training, validation)
        crash_points.here("prepare.counted")
        holding.settle()
        with self._database.begin() as session:
            claims.prepared(
                session,
                claim,
                resolved=resolved,
                reasons=reasons,
                plan=summary,
                required_bytes=sum(summary["memory_bytes"].values()),
                template_date=date,
                warnings=_told(training, validation, plan.longest_allowed(spec.hyperparameters, shape)),
            )
        crash_points.here("prepare.committed")

    def _renderer(self, base: BaseModelRow, date: str) -> Renderer:
        key = (base.id, base.revision, date)
        renderer = self._renderers.get(key)
        if renderer is None:
            cache = self._settings.work_dir / "tokenizers"
            renderer = Renderer.from_folder(catalog.light_folder(self._storage, base, cache), date)
            self._renderers[key] = renderer
            while len(self._renderers) > KEPT_RENDERERS:
                self._renderers.popitem(last=False)
        self._renderers.move_to_end(key)
        return renderer

    def _count(
        self, file: File, renderer: Renderer, scratch: Path, param: str, spec: JobSpec, shape: ModelShape
    ) -> DataCounts:
        """Render every example as the trainer will, and count. Raises InvalidExample naming the line."""
        hyper = spec.hyperparameters
        limit = plan.longest_allowed(hyper, shape)
        path = scratch / param
        self._storage.fetch(file.storage_key, path, file.sha256)
        counter = Counter()
        try:
            for line, example in iter_examples(path):
                must_fit(example, spec.method, line)
                sequences = renderer.render_example(example, line)
                if hyper.too_long is not TooLong.ERROR:  # the plan names the longest of all, and not the first
                    is_pair = spec.method is Method.DPO
                    fitted = fit(sequences, limit, hyper.too_long, line=line, bos_id=renderer.bos_id, is_pair=is_pair)
                    if fitted.dropped:
                        counter.drop(line)
                        continue
                    if fitted.truncated:
                        counter.note_truncated(line)
                    sequences = fitted.sequences
                counter.add(line, sequences)
        except InvalidExample as error:
            error.param = param
            raise
        return counter.counts()


def _told(training: DataCounts, validation: DataCounts | None, limit: int) -> list[str]:
    """What was left out or cut, for the job's events."""
    told = counted(training.dropped_lines, training.truncated_lines, "Training file", limit)
    if validation is not None:
        told += counted(validation.dropped_lines, validation.truncated_lines, "Validation file", limit)
    return told


def _out_of_time(_: int, __: FrameType | None) -> None:
    raise TookTooLong(
        f"The files could not be validated within {TIME_LIMIT_S} s; split them into smaller ones.",
        code="preparation_timeout",
        param="training_file",
    )


def main() -> None:
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    signal.signal(signal.SIGALRM, _out_of_time)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C reaches us as the end of stdin
    settings = load_settings()
    configure_logs(settings)
    preparer = Preparer(settings)
    stdin, has_started = sys.stdin.fileno(), False
    while True:
        try:
            if not has_started:
                preparer.start()
                has_started = True
            preparer.look()
        except Unavailable as error:
            log.warning("preparation_waits", error=error.message)
        ready, _, _ = select.select([stdin], [], [], IDLE_POLL_S)
        if ready and not os.read(stdin, 4096):
            return


if __name__ == "__main__":
    main()
