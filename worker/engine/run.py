"""The training loop between its first and its last step: step, validate, publish, save.

An optimizer step is `batch_size` examples in packed micro-steps, its loss the mean over its supervised tokens, or
over its preference pairs.
Everything a resumed run needs is in the snapshot.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pydantic import BaseModel
from transformers import PreTrainedModel

from core.durable import NO_ROOM
from core.protocol import (
    CheckpointSaved,
    Message,
    Sample,
    SnapshotFailed,
    SnapshotSaved,
    Started,
    Step,
    Stopped,
    Trained,
)
from core.spec import Execution
from worker.engine import execution as machine
from worker.engine import reports
from worker.engine.adapter import JsonValue
from worker.engine.checkpointing import Recomputed
from worker.engine.data import Batches, probe_segments
from worker.engine.early_stopping import EarlyStopping
from worker.engine.fitting import Ladder, Rung, try_pack
from worker.engine.full import FullWeights, stored_dtype
from worker.engine.gradients import Gradients
from worker.engine.lora import LoraModules
from worker.engine.model import parameter_count, resolve_device
from worker.engine.optimizer import learning_rate, load_state_tensors, make_optimizer, state_tensors
from worker.engine.out_of_memory import AnyOutOfMemory
from worker.engine.pack import Segment
from worker.engine.parallel import World
from worker.engine.preference import Preference
from worker.engine.prepared import Lower, Prepared
from worker.engine.randomness import random_states, restore_random_states
from worker.engine.result import write_result
from worker.engine.samples import Sampler
from worker.engine.snapshot import (
    Progress,
    Snapshot,
    library_versions,
    prune,
    save_snapshot,
)
from worker.engine.validation import Validation
from worker.engine.watch import watch
from worker.engine.worst_pack import Lengths

SNAPSHOT_SHARE = 0.05  # of the running time that snapshots may take at most

Reporter = Callable[[BaseModel], None]


class Run:
    """The state of one run between its steps."""

    def __init__(
        self,
        prepared: Prepared,
        chosen: Execution,
        model: PreTrainedModel,
        modules: LoraModules | FullWeights,
        preference: Preference | None,
        report: Reporter,
        world: World,
    ) -> None:
        task = prepared.task
        self.task = task
        self.resolved = task.resolved
        self.folder = prepared.folder
        self.renderer = prepared.renderer
        self.training = prepared.training
        self.identity = prepared.identity
        self.workload = prepared.workload
        self.peak = prepared.peak
        self.snapshot = prepared.snapshot
        self.checkpointed = prepared.checkpointed
        self.execution = chosen
        self.device = resolve_device(task.device)
        self.model = model
        self.recomputed = Recomputed(model)
        self.modules = modules
        self.parameters = modules.parameters()
        self.optimizer = make_optimizer(self.parameters, task.resolved)
        lengths = Lengths(self.training, in_pairs=preference is not None)
        self.ladder = Ladder(lengths, task.resolved.batch_size, world, self._tell)
        self.batches = Batches(len(self.training), task.resolved.batch_size, task.seed)
        self.gradients = Gradients(
            model, modules, preference, max_grad_norm=task.resolved.max_grad_norm, seed=task.seed, world=world
        )
        self.validation = Validation(model, prepared.validation, preference, task.resolved, world)
        self.world = world
        self.report = report
        self.progress = Progress()
        patience = task.resolved.early_stopping_patience
        self.stopping = None if patience is None else EarlyStopping(patience)
        adapters = None if isinstance(modules, FullWeights) else modules
        self.sampler = Sampler(model, adapters, self.renderer, task.resolved.sample_prompts, self.folder.training)
        self.snapshot_cost_s = 0.0
        self.snapshot_at_s = time.monotonic()
        self.snapshot_step = 0

    def take_up(self) -> None:
        """The state that the snapshot holds; without one the run is fresh."""
        snapshot = self.snapshot
        if snapshot is not None:
            self.modules.set_weights(snapshot.adapter)
            load_state_tensors(self.optimizer, snapshot.optimizer)
            restore_random_states(snapshot.random)
            self.progress = snapshot.manifest.progress
            if self.stopping is not None:
                self.stopping.resume(self.progress.best, snapshot.best)
            self.snapshot_step = self.progress.step
        self.world.wait()  # until every process has read the snapshot
        if self.world.first:
            prune(self.folder.snapshots, self.task.keep_snapshots)

    def prove_plan(self) -> Lower | None:
        """Run the worst pack once, and where memory is not enough, go down the ladder to where it is; raises what the
        last rung did.

        What is given back wants a base held otherwise, for which there has to be another run.
        """
        held = self.execution.dequantised
        self.execution = self.ladder.prove(self.execution, self._try)
        return None if self.execution.dequantised == held else Lower(self.execution, self.checkpointed)

    def _try(self, execution: Execution, worst: list[Segment]) -> Exception | None:
        self.recomputed.switch(execution.checkpointing)
        return try_pack(partial(self.gradients.of_pack, worst), self.parameters, self.optimizer)

    def fallen(self, failure: Exception) -> Lower:
        """What follows when memory ran out although the plan was proven: the next rung, from the newest snapshot.

        Raises `failure` where there is none, or where not every process has stopped for it.
        """
        done, saved = self.progress.step, self.snapshot_step
        self._log(f"after step {done}: {type(failure).__name__}: {failure}")
        all_stopped = self.world.size == 1 or isinstance(failure, AnyOutOfMemory)
        rung = self.ladder.below(self.execution) if all_stopped else None
        if rung is None:
            raise failure
        message = (
            f"Memory ran out after step {done}, although the largest pack had fitted before. {rung.message} Training "
            + (f"goes on from the snapshot of step {saved}." if saved else "begins again.")
        )
        self._tell(Rung(rung.execution, message, {**rung.data, "step": done, "resumed_step": saved}))
        return Lower(rung.execution, self.checkpointed)

    def _tell(self, rung: Rung) -> None:
        self._log(rung.message)
        self.peak.restart()  # what was too much is no figure of the run's
        self.report(Message(level="warn", message=rung.message, data=rung.data))

    def begin(self) -> None:
        """Say what is about to run."""
        if self.snapshot is not None:
            self._warn_of_differences(self.snapshot)
        trainable = sum(parameter.numel() for parameter in self.parameters)
        added = 0 if isinstance(self.modules, FullWeights) else trainable
        started = Started(
            execution=self.execution,
            device=str(self.device),
            device_name=machine.device_name(self.device),
            memory_bytes=machine.planned_memory(self.task, self.workload, self.execution),
            total_steps=self.resolved.total_steps,
            resumed_step=self.progress.step,
            training_examples=len(self.training),
            training_tokens=self.training.tokens,
            supervised_tokens=self.training.supervised_tokens,
            trainable_parameters=trainable,
            total_parameters=parameter_count(Path(self.task.base_folder)) + added,
            data_sha256=self.training.sha256,
            template_hash=self.renderer.template.hash,
        )
        self.report(started)
        self._log(
            f"job {self.task.job_id} attempt {self.task.attempt}: steps {self.progress.step + 1} to "
            f"{self.resolved.total_steps}, {len(self.training)} examples, {self.training.tokens} tokens, "
            f"{trainable} trainable parameters, {self.execution}"
        )

    def _warn_of_differences(self, snapshot: Snapshot) -> None:
        manifest, versions = snapshot.manifest, library_versions()
        other = [f"{name} {old}" for name, old in manifest.versions.items() if versions.get(name) != old]
        if manifest.device != self.device.type:
            other.append(f"device {manifest.device}")
        if manifest.processes != self.world.size:
            other.append(f"{manifest.processes} processes")
        if other:
            self.report(
                Message(
                    level="warn",
                    message=f"resumed at step {self.progress.step} from a snapshot made with {', '.join(other)}: "
                    "the result may differ in the last digits from an uninterrupted run",
                )
            )

    def to_the_end(self, stop: threading.Event) -> None:
        while True:
            if self.world.from_first(stop.is_set()):
                self._save_snapshot()
                self.report(Stopped(step=self.progress.step))
                self._log(f"stopped after step {self.progress.step}")
                return
            step = self._step()
            self.report(step)
            if self.stopping is not None:
                self.stopping.take(reports.of_checkpoint(step, self.folder.adapter), self.modules.weights())
                self.progress = self.progress.model_copy(update={"best": self.stopping.best})
            if step.step == step.total_steps or (self.stopping is not None and self.stopping.is_over):
                self._finish(step)
                return
            if step.step % self.resolved.checkpoint_every_steps == 0 and step.step > self.checkpointed:
                folder = self.folder.checkpoints / f"step-{step.step}"
                self._publish(folder, {})
                self.report(reports.of_checkpoint(step, folder, self._samples()))
                self.checkpointed = step.step
            if self._snapshot_is_due():
                self._save_snapshot()

    def _step(self) -> Step:
        """One optimizer step, with the validation that falls on it."""
        begun = time.perf_counter()
        number = self.progress.step + 1
        segments = [segment for i in self.batches.of_step(number) for segment in self.training.segments(i)]
        tokens = sum(len(segment.token_ids) for segment in segments)
        rate = learning_rate(number, self.resolved)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        learnt = self.gradients.of_step(segments, number, self.execution.micro_tokens)
        self.world.all_or_none(self.optimizer.step)
        self.optimizer.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - begun

        first_of_epoch = self.batches.ends_epoch(number - 1)
        self.progress = Progress(
            step=number,
            trained_tokens=self.progress.trained_tokens + tokens,
            epoch_nll=learnt.loss * learnt.weight + (0.0 if first_of_epoch else self.progress.epoch_nll),
            epoch_supervised=learnt.weight + (0 if first_of_epoch else self.progress.epoch_supervised),
            watched=watch(
                self.progress.watched, number, learnt.loss, self.gradients.guess, [one.line for one in segments]
            ),
            best=self.progress.best,
        )
        few, full = self.validation.at(number, self.execution.micro_tokens, ends_epoch=self.batches.ends_epoch(number))
        step = reports.of_step(
            number, self.resolved.total_steps, learnt, few, full, rate=rate, tokens=tokens, seconds=seconds,
            peak_memory_bytes=self.peak.so_far(),
        )  # fmt: skip
        self._log(reports.log_line(step))
        return step

    def _snapshot_is_due(self) -> bool:
        since_s = time.monotonic() - self.snapshot_at_s
        return self.world.first and since_s >= max(self.task.snapshot_interval_s, self.snapshot_cost_s / SNAPSHOT_SHARE)

    def _save_snapshot(self) -> None:
        """Save where the run stands, unless that is saved already or nothing has happened yet."""
        if self.progress.step == self.snapshot_step or not self.world.first:
            return
        begun = time.monotonic()
        try:
            folder, manifest_sha256 = save_snapshot(
                self.folder.snapshots,
                attempt=self.task.attempt,
                progress=self.progress,
                identity=self.identity,
                execution=self.execution,
                device=self.device.type,
                processes=self.world.size,
                adapter=self.modules.weights(),
                optimizer=state_tensors(self.optimizer),
                random=random_states(),
                best={} if self.stopping is None else self.stopping.weights,
            )
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            self.snapshot_at_s = time.monotonic()
            self.report(SnapshotFailed(step=self.progress.step, reason=str(error)))
            return
        prune(self.folder.snapshots, self.task.keep_snapshots)
        self.snapshot_step = self.progress.step
        self.snapshot_at_s = time.monotonic()
        self.snapshot_cost_s = self.snapshot_at_s - begun
        self.report(SnapshotSaved(step=self.progress.step, folder=str(folder), manifest_sha256=manifest_sha256))
        self._log(f"snapshot of step {self.progress.step} in {self.snapshot_cost_s:.2f} s")

    def _publish(self, folder: Path, measured: dict[str, JsonValue]) -> str:
        """The hash of what stands in `folder` then; only the first process writes it."""
        if not self.world.first:
            return ""
        manifest: dict[str, JsonValue] = {
            "step": self.progress.step,
            "total_steps": self.resolved.total_steps,
            "seed": self.task.seed,
            "data_sha256": self.identity.data_sha256,
            # Without what users may not want to hand on with their weights
            "hyperparameters": self.resolved.model_dump(mode="json", exclude={"sample_prompts"}),
            "execution": self.execution.model_dump(mode="json"),
            "versions": dict(library_versions()),
            **measured,
        }
        return write_result(folder, self.task, self.model, self.modules, self.renderer, manifest)

    def _samples(self) -> tuple[Sample, ...]:
        """Asked by the process whose reports are heard."""
        return self.sampler.answers() if self.world.first else ()

    def _finish(self, last: Step) -> None:
        """Measure the final adapter on the probe set and publish it: the last step's, or the best of a run that may
        stop early."""
        resolved = self.resolved
        metrics = reports.of_checkpoint(last, self.folder.adapter)
        if self.stopping is not None:
            metrics = self._take_best(self.stopping, last)
        if isinstance(self.modules, FullWeights):  # what is measured is what is published
            self.modules.round_to(stored_dtype(Path(self.task.base_folder)))
        probe = probe_segments(
            self.folder, self.renderer, resolved.max_example_tokens, resolved.method, resolved.too_long
        )
        final = self.validation.mean(probe, self.progress.step, self.execution.micro_tokens)
        sha256 = self._publish(self.folder.adapter, {"step": metrics.step, "final_valid_loss": final.loss})
        self.report(
            Trained(
                folder=str(self.folder.adapter),
                trained_tokens=self.progress.trained_tokens,
                train_loss=self.progress.epoch_nll / max(self.progress.epoch_supervised, 1),
                metrics=metrics.model_copy(update={"folder": str(self.folder.adapter), "samples": self._samples()}),
                steps=last.step,
                stopped_early=last.step < last.total_steps,
                final_valid_loss=final.loss,
                adapter_sha256=sha256,
                peak_memory_bytes=self.peak.at_the_end(),
            )
        )
        self._log(f"trained: step {metrics.step}, probe loss {final.loss:.4f}, adapter {sha256}")

    def _take_best(self, stopping: EarlyStopping, last: Step) -> CheckpointSaved:
        """Put the best weights in place, and say which they are."""
        best = stopping.best
        assert best is not None  # the last step is always validated
        self.modules.set_weights(stopping.weights)
        why = f"stopped early after step {last.step}: " if last.step < last.total_steps else ""
        step = best.metrics.step
        self.report(
            Message(
                message=f"{why}the weights of step {step}, with the lowest validation loss ({best.loss:.4f}), are the "
                "result",
                data={"step": step, "full_valid_loss": best.loss, "last_step": last.step},
            )
        )
        return best.metrics

    def _log(self, text: str) -> None:
        """A line of the job's log."""
        if self.world.first:
            print(text, file=sys.stderr, flush=True)
