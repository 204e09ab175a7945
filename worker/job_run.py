"""Drive the engine through one attempt: send the task, turn its reports into rows, heed who wants it to stop."""

from __future__ import annotations

import time

from core import crash_points
from core.db import Session
from core.durable import NO_ROOM
from core.jobs import claims
from core.jobs.jobs import NewEvent
from core.planning import measured_run, time_plan
from core.planning.measured_run import MeasuredRun
from core.protocol import (
    CheckpointSaved,
    Failed,
    Message,
    Report,
    SnapshotFailed,
    SnapshotSaved,
    Started,
    Step,
    Stop,
    Stopped,
    Train,
    Trained,
)
from worker.attempt import Attempt, LeaseLost, StopReason
from worker.engine_process import EngineDied, EngineProcess
from worker.outcome import keep_snapshot, publish_checkpoint, publish_final
from worker.tracking import Tracking

FLUSH_S = 0.5  # metrics are written at most this often
STOP_TIMEOUT_S = 60.0  # an engine asked to stop by a user has this long to save its snapshot
UNSAVED_IN_A_ROW = 3  # snapshots that found no room: then the job would be running for nothing
STALL_FACTOR = 10  # times the longest silence so far: a slow engine is not a hanging one


class JobRun:
    """`train` drives the engine to a final status or a requeue."""

    def __init__(self, attempt: Attempt, engine: EngineProcess) -> None:
        self._attempt = attempt
        self._engine = engine
        self._steps: list[Step] = []  # not yet written
        self._flushed_at = 0.0
        self._started: Started | None = None
        self._started_at = 0.0
        self._reported_step = attempt.job.reported_step
        self._known_losses: dict[int, float] = {}  # of steps that a resumed run repeats
        self._asked_to_stop: StopReason | None = None
        self._asked_at = 0.0
        self._unsaved = 0  # snapshots in a row that found no room
        self._heard_at = 0.0
        self._longest_silence_s = 0.0
        self._run: MeasuredRun | None = measured_run.of_job(attempt.job)
        self._trained_before_s = 0.0  # of the job, before the engine last began
        self._stepped_at = 0.0
        self._tracking = Tracking(attempt)
        self._timed_tokens = 0  # of all steps but the attempt's first, which warms up
        self._timed_s: float | None = None

    def train(self) -> None:
        """Until the job has left this worker. Raises EngineDied when the engine is gone, LeaseLost with the lease."""
        attempt, engine = self._attempt, self._engine
        engine.log_to(attempt.log_file)
        attempt.must_hold()
        try:
            engine.send(Train(folder=str(attempt.folder.root)))
            self._heard_at = time.monotonic()
            while not attempt.finished:
                report = engine.read(0.2)
                attempt.must_hold()
                self._watch(heard=report is not None)
                if report is not None:
                    self._take(report)
                    self._heard_at = time.monotonic()  # storing what it reported is not the engine's time
                if self._steps and time.monotonic() - self._flushed_at > FLUSH_S:
                    self._flush()
                self._heed()
        except EngineDied:
            if attempt.holding.lost.is_set():  # which is why the engine was killed
                raise LeaseLost from None
            raise
        finally:
            self._tracking.abandon()

    def _watch(self, *, heard: bool) -> None:
        """End an engine that hangs: its beats go on, since they are this process's, and nobody else would see it."""
        silence_s = time.monotonic() - self._heard_at
        if heard:
            self._longest_silence_s = max(self._longest_silence_s, silence_s)
            return
        stall_s = self._attempt.place.settings.stall_s
        if stall_s and silence_s > max(stall_s, STALL_FACTOR * self._longest_silence_s):
            self._engine.kill()
            raise EngineDied(f"the engine has reported nothing for {silence_s:.0f} s")

    def _heed(self) -> None:
        """Ask the engine to stop when the user, the clock or the worker's end wants it; then insist."""
        if self._asked_to_stop is None:
            self._asked_to_stop = self._attempt.wanted_stop()
            if self._asked_to_stop is not None:
                self._asked_at = time.monotonic()
                self._engine.send(Stop())
            return
        drained = self._asked_to_stop == "drained"
        grace_s = self._attempt.place.settings.stop_grace_s if drained else STOP_TIMEOUT_S
        if time.monotonic() - self._asked_at > grace_s and not self._attempt.finished:
            self._engine.kill()  # the snapshot before this one is what the next attempt has

    def _take(self, report: Report) -> None:
        if not isinstance(report, Step):
            self._flush(report if isinstance(report, Trained) else None)
        match report:
            case Step():
                self._steps.append(report)
                self._time(report)
            case Started():
                self._take_started(report)
            case SnapshotSaved():
                self._keep_snapshot(report)
            case SnapshotFailed():
                self._found_no_room(report.step, report.reason)
            case CheckpointSaved():
                publish_checkpoint(self._attempt, report, self._template_hash)
            case Message():
                self._attempt.tell(report.message, level=report.level, **report.data)
            case Trained():
                self._tracking.finish()
                publish_final(self._attempt, report, self._template_hash, self._engine, self._tracking)
            case Stopped() if self._asked_to_stop is not None:
                self._attempt.stop(self._asked_to_stop)
            case Failed():
                self._take_failed(report)
            case _:
                raise EngineDied(f"the engine said {report.report!r} out of turn")

    def _keep_snapshot(self, report: SnapshotSaved) -> None:
        try:
            keep_snapshot(self._attempt, report)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            self._found_no_room(report.step, str(error))
        else:
            self._unsaved = 0

    def _found_no_room(self, step: int, why: str) -> None:
        self._unsaved += 1
        if self._unsaved < UNSAVED_IN_A_ROW:
            text = f"The snapshot of step {step} found no room ({why}); the one before it is kept, and training goes on"
            self._attempt.tell(text, level="warn", error_code="checkpoint_failed")
            return
        self._engine.kill()
        self._attempt.fail(
            "storage_full",
            f"{self._unsaved} snapshots in a row found no room on the worker's disk, the last at step {step} ({why}). "
            "Free some of it, or ask whoever runs this service, and create the job again.",
        )

    def _take_failed(self, report: Failed) -> None:
        if report.kind != "user":
            self._engine.kill()  # it is about to end, and the next job must not be sent to it meanwhile
        if report.kind == "internal":
            self._attempt.lose(report.message)
        else:
            self._attempt.fail(report.code, report.message, report.param)

    def _time(self, step: Step) -> None:
        self._stepped_at = time.monotonic()
        if self._timed_s is None:
            self._timed_s = 0.0
            return
        self._timed_tokens += step.tokens
        self._timed_s += step.tokens / step.tokens_per_s

    def _measured(self, peak_memory_bytes: int | None) -> MeasuredRun:
        """The run as far as it has come."""
        if self._run is None:
            raise EngineDied("the engine trained before it said that it had started")
        trained_s = self._trained_before_s + self._stepped_at - self._started_at
        peak = self._run.peak_memory_bytes if peak_memory_bytes is None else peak_memory_bytes
        self._run = self._run.model_copy(update={"peak_memory_bytes": peak, "trained_s": round(trained_s, 1)})
        return self._run

    @property
    def _template_hash(self) -> str:
        if self._started is None:
            raise EngineDied("the engine published before it said that it had started")
        return self._started.template_hash

    def _take_started(self, report: Started) -> None:
        """Also when the engine begins again from its newest snapshot, a rung of the ladder lower."""
        is_first = self._started is None
        self._started = report
        self._started_at = self._stepped_at = time.monotonic()
        attempt, before = self._attempt, self._run
        self._trained_before_s = before.trained_s if before else 0.0

        def write(session: Session) -> claims.Flags | None:
            self._run = measured_run.begun(session, attempt.job, report, before)
            self._known_losses = claims.reported_losses(session, attempt.job.id, report.resumed_step, report.execution)
            return claims.started(
                session,
                attempt.claim,
                execution=report.execution,
                run=self._run,
                template_hash=report.template_hash,
                total_steps=report.total_steps,
            )

        attempt.write(write)
        if is_first:
            self._tracking.start()

    def _flush(self, ended: Trained | None = None) -> None:
        """Write the steps since the last flush as metric events; repeated steps are compared, not written again.

        With the end of the training goes what it took, for the job itself and for the plans of jobs to come.
        """
        steps, self._steps = self._steps, []
        if not steps and ended is None:
            return
        events = self._events(steps)
        seconds_left = self._seconds_left(steps[-1]) if steps else None
        run, tries = self._measured(steps[-1].peak_memory_bytes if steps else None), 0
        if ended:
            run = self._measured(ended.peak_memory_bytes)

        def write(session: Session) -> claims.Flags | None:
            nonlocal tries
            tries += 1
            # After a commit whose answer was lost they stand there already
            written = tries > 1 and claims.reported_step(session, self._attempt.job.id) >= self._reported_step
            flags = claims.report(
                session,
                self._attempt.claim,
                [] if written else events,
                reported_step=self._reported_step,
                seconds_left=seconds_left,
                plan=measured_run.beside_plan(self._attempt.job, run),
            )
            if ended and flags is not None:
                self._note_throughput(session)
            return flags

        self._attempt.write(write)
        crash_points.here("steps.written")
        self._tracking.look()
        self._flushed_at = time.monotonic()

    def _events(self, steps: list[Step]) -> list[NewEvent]:
        events: list[NewEvent] = []
        for step in steps:
            if step.step > self._reported_step:
                events.append(_metrics_event(step))
                self._tracking.step(step)
            elif (known := self._known_losses.get(step.step)) is not None and known != step.train_loss:
                text = f"Step {step.step}, repeated after a resume, gave {step.train_loss!r} instead of {known!r}"
                events.append(NewEvent(text, level="warn"))
            self._reported_step = max(self._reported_step, step.step)
        return events

    def _seconds_left(self, last: Step) -> float:
        done = last.step - (self._started.resumed_step if self._started else 0)
        return (time.monotonic() - self._started_at) / max(done, 1) * (last.total_steps - last.step)

    def _note_throughput(self, session: Session) -> None:
        if self._timed_s:
            job, tokens_per_s = self._attempt.job, self._timed_tokens / self._timed_s
            time_plan.note_throughput(session, job.worker_id, job.base_model, self._attempt.resolved, tokens_per_s)


def _metrics_event(step: Step) -> NewEvent:
    text = f"Step {step.step}/{step.total_steps}: training loss={step.train_loss:.2f}"
    if step.valid_loss is not None:
        text += f", validation loss={step.valid_loss:.2f}"
    if step.full_valid_loss is not None:
        text += f", full validation loss={step.full_valid_loss:.2f}"
    data = step.model_dump(exclude={"report", "peak_memory_bytes"}, exclude_none=True)
    return NewEvent(text, type="metrics", data=data)
