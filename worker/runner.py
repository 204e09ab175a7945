"""The worker's loop: when rung, claim until nothing fits, and keep an engine warm between jobs.

An engine that ended a job cleanly stays with its base resident; another base, a crash, memory growth or
idleness ends it. This process never imports torch.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import socket
import threading
import time
from importlib.metadata import version

import structlog

from core import crash_points, workers
from core.batches import claims as batch_claims
from core.db import Database, Session, open_database
from core.durable import NO_ROOM
from core.errors import AttuneError, Unavailable
from core.jobs import claims, job_files, losses
from core.jobs.claims import Claim, WorkerFacts
from core.models import Worker
from core.protocol import Ready
from core.settings import Settings
from core.store.storage import Storage, StorageCorrupt, StorageMissing, open_storage
from core.upkeep import readiness
from worker.attempt import Attempt, LeaseLost, LeftEarly, Place
from worker.batch_lane import BatchLane
from worker.device import DeviceHold, gpus_seen
from worker.engine_process import EngineDied, EngineProcess
from worker.job_run import JobRun
from worker.work_folder import fill

log = structlog.get_logger()
LOOK_AROUND_S = 2.0  # how often an idle engine and a wanted device are looked at
ROOM_BYTES = 128 * 1024 * 1024  # free on the disk of the work folder, or no job is claimed
LOOK_UNRUNG_S = 10.0  # how often an idle worker looks although nobody has rung
DEVICE_ASK_S = 1.0  # how often a held device is asked for


class NameTaken(Exception):
    """Another live process on this machine is the worker of this name."""


class Runner:
    """One worker. `start` registers it; `look` is what a ring does; `drain` ends it with its job saved."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database: Database = open_database(settings.resolved_database_url)
        self._storage: Storage = open_storage(settings)
        self._name = settings.worker_name
        self._incarnation = secrets.token_hex(8)
        self._work_dir = settings.work_dir / self._name
        self._engine: EngineProcess | None = None
        self._engine_key: tuple[str, str] | None = None  # base model, its revision
        self._device: DeviceHold | None = None
        self._facts: WorkerFacts | None = None
        self._on_cpu = False
        self._state = "idle"
        self._job_id: str | None = None
        self._draining = threading.Event()
        self._place = Place(settings, self._database, self._storage, self._work_dir / "jobs", self._draining.is_set)
        self._looking = threading.Lock()
        self._batches = BatchLane(self._place, self._name)

    # Life

    def start(self) -> None:
        """Take the name, end what a dead predecessor held, learn the device, and begin to beat."""
        self._take_name()
        with self._database.begin() as session:
            ended = losses.end_claims_of(session, self._name) + batch_claims.end_claims_of(session, self._name)
        if ended:
            log.info("predecessor_claims_ended", worker=self._name, claims=ended)
        shutil.rmtree(self._work_dir / "jobs", ignore_errors=True)
        (self._work_dir / "jobs").mkdir(parents=True)
        _, ready = self._warm_up()
        self._register(ready)
        self._batches.start()
        threading.Thread(target=self._beat, name="worker-beat", daemon=True).start()
        threading.Thread(target=self._look_unrung, name="worker-look", daemon=True).start()

    def _take_name(self) -> None:
        # Held until this process ends, however it ends: so ending a predecessor's claims is always safe
        self._work_dir.mkdir(parents=True, exist_ok=True)
        self._lock_file = (self._work_dir / "lock").open("w")
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message = f"another worker named {self._name!r} runs here; give this one another ATTUNE_WORKER_NAME"
            raise NameTaken(message) from error

    def _warm_up(self) -> tuple[EngineProcess, Ready]:
        """Start an engine. Its word on the device comes with it, and the first job finds its imports done."""
        threads = self._settings.engine_threads or os.cpu_count() or 1
        device = self._settings.device
        engine = EngineProcess(
            device=device,
            threads=threads,
            log_file=self._work_dir / "engine.log",
            folder=self._work_dir / "engine",
            processes=self._settings.engine_processes or gpus_seen(device),
            cache=self._settings.work_dir / "engine-cache",
            module=self._settings.engine_module,
        )
        self._engine, self._engine_key = engine, None  # before it is ready, so that a drain can end it
        try:
            return engine, engine.wait_until_ready()
        except EngineDied:
            self._kill_engine()
            raise

    def _register(self, ready: Ready) -> None:
        labels = tuple(label.strip() for label in self._settings.worker_labels.split(",") if label.strip())
        memory = self._settings.worker_memory_bytes or ready.memory_bytes
        self._facts = WorkerFacts(id=self._name, memory_bytes=memory, labels=labels)
        self._on_cpu = ready.device == "cpu"
        self._device = DeviceHold(self._database, ready.device, f"worker {self._name}")
        row = Worker(
            id=self._name,
            incarnation=self._incarnation,
            host=socket.gethostname(),
            pid=os.getpid(),
            device=ready.device,
            device_name=ready.device_name,
            memory_bytes=memory,
            labels=list(labels),
            price_per_hour=self._settings.price_per_hour,
            state="idle",
            versions={"attune": version("attune"), **ready.versions},
        )
        with self._database.begin() as session:
            workers.register(session, row)

    def drain(self) -> None:
        """The process is told to end: save the running job's snapshot, give the job back, stop looking."""
        self._draining.set()
        if self._facts is None:
            self._kill_running()  # still starting its first engine
        else:
            self._say("draining", self._job_id)

    def close(self) -> None:
        """After the last look: end the engine, give the batch back, and take the row along."""
        self._batches.stop()
        with self._looking:
            self._end_engine()
        try:
            with self._database.begin() as session:
                workers.leave(session, self._name, self._incarnation)
        except Unavailable as error:
            log.warning("worker_row_left_behind", error=error.message)
        self._database.close()

    def _beat(self) -> None:
        written_at = time.monotonic()
        while not self._draining.wait(min(LOOK_AROUND_S, self._settings.beat_s)):
            if time.monotonic() - written_at >= self._settings.beat_s:
                written_at = time.monotonic()
                self._write_row()
            if self._device is not None and self._device.held and not self._device.renew():
                log.warning("device_lost", worker=self._name)
                self._kill_engine()
            self._end_idle_engine()

    def _say(self, state: str, job_id: str | None) -> None:
        self._state, self._job_id = state, job_id
        self._write_row()

    def _write_row(self) -> None:
        try:
            with self._database.begin() as session:
                self._beat_in(session)
        except Unavailable as error:
            log.warning("worker_beat_failed", error=error.message)

    def _beat_in(self, session: Session) -> None:
        resident = self._engine_key[0] if self._engine_key and self._engine and self._engine.alive() else None
        workers.beat(
            session, self._name, self._incarnation, state=self._state, job_id=self._job_id, resident_base=resident
        )

    # Work

    def look(self) -> None:
        """Claim until nothing fits. A second ring while one is being answered changes nothing."""
        self._batches.look()
        if self._facts is None or not self._looking.acquire(blocking=False):
            return
        try:
            while not self._draining.is_set():
                # A database that was migrated under this worker belongs to another version of it
                if (revision := readiness.migrations(self._database)) != "ok":
                    log.error("worker_of_another_version", why=revision)
                    return
                claim = self._claim() if self._has_room() else None
                if claim is None:
                    if self._state == "idle":
                        return
                    # Once more after saying "idle": a job queued in between was not rung for
                    self._say("idle", None)
                    continue
                self._work(claim)
        except Unavailable as error:
            log.warning("look_ended", error=error.message)  # the janitor rings again
        finally:
            if self._state == "busy":
                self._say("idle", None)
            self._looking.release()

    def _look_unrung(self) -> None:
        """Whatever becomes of the doorbell between the broker and this process costs seconds, and no more."""
        while not self._draining.wait(LOOK_UNRUNG_S):
            try:
                self.look()
            except Exception:
                log.exception("look_broke")  # ours to mend; the next look is due all the same

    def _has_room(self) -> bool:
        free = shutil.disk_usage(self._work_dir).free
        if free < ROOM_BYTES:
            log.error("worker_without_room", folder=str(self._work_dir), free_bytes=free, needed_bytes=ROOM_BYTES)
        return free >= ROOM_BYTES

    def _claim(self) -> Claim | None:
        assert self._facts is not None
        resident = self._engine_key[0] if self._engine_key else None
        facts = WorkerFacts(self._facts.id, self._facts.memory_bytes, self._facts.labels, resident)
        with self._database.begin() as session:
            claim = claims.claim_training(session, facts, self._settings.lease_s)
            if claim is not None:
                self._state, self._job_id = "busy", claim.job_id
                self._beat_in(session)
                crash_points.here("claim.written")
        if claim is not None:
            crash_points.here("claim.committed")
        return claim

    def _work(self, claim: Claim) -> None:
        job = claim.job
        log.info("job_claimed", job=job.id, attempt=claim.attempt, base=job.base_model)
        with self._database.read() as session:
            inputs = job_files.inputs_of(session, job)
        attempt = Attempt(self._place, claim, inputs, on_lost=self._kill_running)
        try:
            with attempt.holding:
                self._run(attempt)
        except LeaseLost:
            log.warning("attempt_lost", job=job.id, attempt=claim.attempt)
            self._kill_engine()
        finally:
            attempt.clean()

    def _run(self, attempt: Attempt) -> None:
        """Every way in which an attempt may end, and what it means for the job."""
        try:
            fill(attempt, self._settings.device)
            if not self._take_device(attempt):
                return
            engine = self._engine_for((attempt.job.base_model, attempt.inputs.base.revision))
            self._bound_memory(engine, attempt)
            JobRun(attempt, engine).train()
            self._keep_warm(engine)
        except LeftEarly:
            log.info("job_left_early", job=attempt.job.id, attempt=attempt.claim.attempt)
        except LeaseLost:
            raise
        except EngineDied as error:
            self._kill_engine()
            attempt.lose(str(error))
        except Unavailable as error:
            self._kill_engine()
            attempt.lose(error.message, is_outage=True)
        except (StorageCorrupt, StorageMissing) as error:
            self._kill_engine()
            attempt.lose(str(error))
        except AttuneError as error:
            attempt.fail(error.code or "invalid_job", error.message, error.param)
        except Exception as error:
            self._kill_engine()
            if isinstance(error, OSError) and error.errno in NO_ROOM:
                log.error("worker_without_room", job=attempt.job.id, attempt=attempt.claim.attempt)
                attempt.lose("its worker's disk is full")
                return
            # Ours to mend. Saying so at once is kinder than a lease that runs out without a word
            log.exception("attempt_broke", job=attempt.job.id, attempt=attempt.claim.attempt)
            attempt.lose(f"an error of the worker: {type(error).__name__}")

    # The engine

    def _engine_for(self, key: tuple[str, str]) -> EngineProcess:
        """The warm engine if it holds this base or none yet, else a fresh one."""
        engine = self._engine
        if engine is not None and (not engine.alive() or self._engine_key not in (None, key)):
            self._end_engine()
            engine = None
        if engine is None:
            engine, _ = self._warm_up()
        self._engine_key = key
        return engine

    def _bound_memory(self, engine: EngineProcess, attempt: Attempt) -> None:
        """On a CPU. A GPU's driver maps address space without end, and its memory is bound by itself."""
        assert self._facts is not None
        if self._on_cpu:
            files_bytes = sum(int(file["bytes"]) for file in attempt.inputs.base.files)
            engine.bound_memory(self._settings.engine_memory_bytes or self._facts.memory_bytes, files_bytes)

    def _take_device(self, attempt: Attempt) -> bool:
        """Wait for the GPU while a server has it; False when the job left meanwhile (cancelled, drained)."""
        assert self._device is not None
        while not self._device.take():
            if attempt.left():
                return False
            time.sleep(DEVICE_ASK_S)
        return True

    def _keep_warm(self, engine: EngineProcess) -> None:
        if not engine.alive():  # it ended for lack of memory, after it had said so
            self._kill_engine()
            return
        rss = engine.rss_bytes()
        engine.first_rss_bytes = engine.first_rss_bytes or rss
        engine.last_used = time.monotonic()
        engine.log_to(self._work_dir / "engine.log")
        if self._device is not None and self._device.wanted():
            self._end_engine()  # the server's turn, before the next job
        elif rss > self._settings.engine_memory_growth * engine.first_rss_bytes:
            log.info("engine_replaced", why="its memory has grown", rss_bytes=rss)
            self._end_engine()

    def _end_idle_engine(self) -> None:
        engine = self._engine
        idle = engine is not None and time.monotonic() - engine.last_used > self._settings.engine_idle_s
        wanted = self._device is not None and self._device.wanted()
        if (idle or wanted) and self._looking.acquire(blocking=False):
            try:
                self._end_engine()
            finally:
                self._looking.release()

    def _end_engine(self) -> None:
        if self._engine is not None:
            self._engine.end()
        self._forget_engine()

    def _kill_running(self) -> None:
        """In the beating thread, when the lease is lost: the engine may not write one more step."""
        engine = self._engine
        if engine is not None:
            engine.kill()

    def _kill_engine(self) -> None:
        if self._engine is not None:
            self._engine.kill()
        self._forget_engine()

    def _forget_engine(self) -> None:
        self._engine, self._engine_key = None, None
        if self._device is not None:
            try:
                self._device.release()
            except Unavailable as error:
                log.warning("device_not_released", error=error.message)  # the lease ends by itself
