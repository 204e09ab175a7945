"""The training loop between its first and its last step: step, validate, publish, save.

An optimizer step is `batch_size` examples in packed micro-steps, its loss the mean over its supervised tokens, or
over its preference pairs.
Everything a resumed run needs is in the snapshot.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from pydantic import BaseModel
from transformers import PreTrainedModel

from core.durable import NO_ROOM
from core.errors import AttuneError
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
    TrainTask,
    WorkFolder,
)
from core.render import Renderer
from core.spec import Execution
from worker.engine.adapter import JsonValue
from worker.engine.checkpointing import Recomputed
from worker.engine.data import Batches, Dataset, probe_segments
from worker.engine.early_stopping import EarlyStopping
from worker.engine.fitting import longest_unit, next_rung, try_pack, worst_pack
from worker.engine.full import FullWeights, full_pack_loss, stored_dtype
from worker.engine.lora import LoraModules
from worker.engine.loss import Head, Mean, Rewards, mean_loss, pack_loss
from worker.engine.model import parameter_count, resolve_device
from worker.engine.optimizer import (
    clip_gradients,
    learning_rate,
    load_state_tensors,
    make_optimizer,
    state_tensors,
)
from worker.engine.pack import Pack, Segment, pack_micro_steps
from worker.engine.parallel import World
from worker.engine.preference import Preference, pairs_of, preferred_tokens
from worker.engine.randomness import random_states, restore_random_states
from worker.engine.result import write_result
from worker.engine.samples import Sampler
from worker.engine.snapshot import (
    Identity,
    Progress,
    Snapshot,
    library_versions,
    prune,
    save_snapshot,
)
from worker.engine.watch import shown, watch

SNAPSHOT_SHARE = 0.05  # of the running time that snapshots may take at most

Reporter = Callable[[BaseModel], None]


class LossNotFinite(AttuneError):
    """The loss or its gradient became NaN or infinite."""

    def __init__(self, step: int, lines: list[int], what: str) -> None:
        super().__init__(
            f"step {step}: the {what} is not finite; the step trained on {shown(lines)} of the training file. "
            "Lower learning_rate_multiplier, and look at these lines",
            code="loss_not_finite",
            param="hyperparameters.learning_rate_multiplier",
        )


@dataclass(frozen=True)
class _Learnt:
    """What one optimizer step saw, before it moved the adapter."""

    loss: float
    accuracy: float
    norm: float  # of the gradient before clipping
    rewards: Rewards | None


class Run:
    """The state of one run between its steps."""

    def __init__(
        self,
        task: TrainTask,
        folder: WorkFolder,
        renderer: Renderer,
        training: Dataset,
        validation: Dataset | None,
        identity: Identity,
        chosen: Execution,
        model: PreTrainedModel,
        modules: LoraModules | FullWeights,
        preference: Preference | None,
        report: Reporter,
        world: World,
    ) -> None:
        self.task = task
        self.resolved = task.resolved
        self.folder = folder
        self.renderer = renderer
        self.training = training
        self.validation = validation
        self.identity = identity
        self.execution = chosen
        self.device = resolve_device(task.device)
        self.model = model
        self.head = Head(model)
        self.recomputed = Recomputed(model)
        self.modules = modules
        self.preference = preference  # of the method dpo
        self.parameters = modules.parameters()
        self.optimizer = make_optimizer(self.parameters, task.resolved)
        self.batches = Batches(len(training), task.resolved.batch_size, task.seed)
        self.world = world
        self.report = report
        self.progress = Progress()
        patience = task.resolved.early_stopping_patience
        self.stopping = None if patience is None else EarlyStopping(patience)
        adapters = None if isinstance(modules, FullWeights) else modules
        self.pack_loss = full_pack_loss if adapters is None else pack_loss
        self.sampler = Sampler(model, adapters, renderer, task.resolved.sample_prompts, folder.training)
        # The loss of guessing: among all tokens, or which of two answers is preferred
        self.guess = math.log(2 if preference else self.head.weight.shape[0])
        self.snapshot_cost_s = 0.0
        self.snapshot_at_s = time.monotonic()
        self.snapshot_step = 0

    def begin(self, snapshot: Snapshot | None) -> None:
        """Take up the snapshot's state, and say what is about to run."""
        if snapshot is not None:
            self.modules.set_weights(snapshot.adapter)
            load_state_tensors(self.optimizer, snapshot.optimizer)
            restore_random_states(snapshot.random)
            self.progress = snapshot.manifest.progress
            if self.stopping is not None:
                self.stopping.resume(self.progress.best, snapshot.best)
            self.snapshot_step = self.progress.step
            self._warn_of_differences(snapshot)
        self.world.wait()  # until every process has read the snapshot
        if self.world.first:
            prune(self.folder.snapshots, self.task.keep_snapshots)
        self._prove_plan()
        trainable = sum(parameter.numel() for parameter in self.parameters)
        added = 0 if isinstance(self.modules, FullWeights) else trainable
        started = Started(
            execution=self.execution,
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

    def _prove_plan(self) -> None:
        """Run the worst pack once. Where memory is not enough, go down the ladder, whose every rung keeps the
        mathematics the same; raises what the last rung did."""
        units = self._units([one for i in range(len(self.training)) for one in self.training.segments(i)])
        while True:
            self.recomputed.switch(self.execution.checkpointing)
            worst = worst_pack(units, self.execution.micro_tokens, self.resolved.batch_size)
            failure = try_pack(partial(self._backward_once, worst), self.parameters, self.optimizer)
            if not any(self.world.gather([failure is not None])):
                return
            lower = next_rung(self.execution, longest_unit(units))
            if lower is None:
                raise failure or MemoryError("another process of this job has not enough memory")
            self.execution = lower.execution
            self._log(lower.message)
            self.report(Message(level="warn", message=lower.message, data=lower.data))

    def _backward_once(self, segments: list[Segment]) -> None:
        self._score(segments, 1.0)[0].backward()

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
                self.stopping.take(_checkpoint(step, self.folder.adapter), self.modules.weights())
                self.progress = self.progress.model_copy(update={"best": self.stopping.best})
            if step.step == step.total_steps or (self.stopping is not None and self.stopping.is_over):
                self._finish(step)
                return
            if step.step % self.resolved.checkpoint_every_steps == 0:
                folder = self.folder.checkpoints / f"step-{step.step}"
                self._publish(folder, {})
                self.report(_checkpoint(step, folder, self._samples()))
            if self._snapshot_is_due():
                self._save_snapshot()

    def _step(self) -> Step:
        """One optimizer step, with the validation that falls on it."""
        begun = time.perf_counter()
        number = self.progress.step + 1
        segments = [segment for i in self.batches.of_step(number) for segment in self.training.segments(i)]
        # What the loss is a mean of: pairs, or supervised tokens
        weight = len(segments) // 2 if self.preference else sum(int(segment.mask.sum()) for segment in segments)
        tokens = sum(len(segment.token_ids) for segment in segments)
        rate = learning_rate(number, self.resolved)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        learnt = self._backward(segments, weight, number)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - begun

        first_of_epoch = self.batches.ends_epoch(number - 1)
        self.progress = Progress(
            step=number,
            trained_tokens=self.progress.trained_tokens + tokens,
            epoch_nll=learnt.loss * weight + (0.0 if first_of_epoch else self.progress.epoch_nll),
            epoch_supervised=weight + (0 if first_of_epoch else self.progress.epoch_supervised),
            watched=watch(self.progress.watched, number, learnt.loss, self.guess, [one.line for one in segments]),
            best=self.progress.best,
        )
        few, full = self._validate(number)
        self._log(
            f"step {number}/{self.resolved.total_steps} loss {learnt.loss:.4f} norm {learnt.norm:.3f} "
            f"rate {rate:.3g} {tokens} tokens {tokens / seconds:.0f} tokens/s"
            + (f" rewards {learnt.rewards.accuracy:.2f} by {learnt.rewards.margin:.3f}" if learnt.rewards else "")
            + (f" validation {few.loss:.4f}" if few else "")
            + (f" full validation {full.loss:.4f}" if full else "")
        )
        return Step(
            step=number,
            total_steps=self.resolved.total_steps,
            train_loss=learnt.loss,
            train_mean_token_accuracy=learnt.accuracy,
            learning_rate=rate,
            grad_norm=learnt.norm,
            tokens=tokens,
            tokens_per_s=tokens / seconds,
            valid_loss=few.loss if few else None,
            valid_mean_token_accuracy=few.accuracy if few else None,
            full_valid_loss=full.loss if full else None,
            full_valid_mean_token_accuracy=full.accuracy if full else None,
            **_rewards("", learnt.rewards),
            **_rewards("valid_", few.rewards if few else None),
            **_rewards("full_valid_", full.rewards if full else None),
        )

    def _backward(self, segments: list[Segment], weight: int, number: int) -> _Learnt:
        """Accumulate the step's gradients, each process those of its share."""
        self.modules.training(True)
        self.world.seed_step(self.task.seed, number)
        units = self._units(segments)
        lengths = [sum(len(segment.token_ids) for segment in unit) for unit in units]
        own = self.world.share(lengths)
        packed = pack_micro_steps([lengths[i] for i in own], self.execution.micro_tokens)
        micro_steps = [[own[i] for i in micro] for micro in packed]
        losses: list[torch.Tensor] = []
        counts: list[torch.Tensor] = []
        for micro in micro_steps:
            loss, sums = self._score([segment for i in micro for segment in units[i]], 1.0 / weight)
            loss.backward()
            losses.append(loss.detach())
            counts.append(sums)
        self.world.sum_gradients(self.parameters)
        norm = clip_gradients(self.parameters, self.resolved.max_grad_norm)
        self.modules.training(False)
        # One transfer for all numbers of the step: each would wait for the device by itself
        summed = torch.stack([torch.zeros(3, device=self.device), *counts]).sum(0)
        *parts, own_right, own_won, own_margin, norm_value = torch.stack([*losses, *summed, norm]).tolist()
        loss_sum, right_sum, won_sum, margin_sum = self.world.sum([sum(parts), own_right, own_won, own_margin])
        if not (math.isfinite(loss_sum) and math.isfinite(norm_value)):
            faulty = [
                units[i][0].line
                for micro, part in zip(micro_steps, parts, strict=True)
                if not math.isfinite(part)
                for i in micro
            ]
            faulty = self.world.gather(faulty)
            lines = faulty or [segment.line for segment in segments]
            raise LossNotFinite(number, sorted(set(lines)), "loss" if faulty else "gradient")
        if self.preference is None:
            return _Learnt(loss_sum, right_sum / weight, norm_value, None)
        rewards = Rewards(won_sum / weight, margin_sum / weight)
        return _Learnt(loss_sum, right_sum / preferred_tokens(segments), norm_value, rewards)

    def _units(self, segments: list[Segment]) -> list[list[Segment]]:
        """What has to be in one pack: a pair's loss needs both of its sequences."""
        return pairs_of(segments) if self.preference else [[segment] for segment in segments]

    def _score(self, segments: list[Segment], factor: float) -> tuple[torch.Tensor, torch.Tensor]:
        """(one pack's share of the loss, [3]: tokens guessed right, pairs won, their margins)"""
        pack = Pack.of(segments, self.device)
        if self.preference is None:
            loss, right = self.pack_loss(self.model, self.head, pack, factor)
            won = margin = loss.new_zeros(())
        else:
            scores = self.preference.score(pack, factor)
            loss, right, won, margin = scores.loss, scores.right, scores.won, scores.margin
        return loss, torch.stack([right.float(), won.float(), margin.float()])

    def _validate(self, step: int) -> tuple[Mean | None, Mean | None]:
        """(a look at the fixed subset, the whole file), each where it falls on this step."""
        if self.validation is None:
            return None, None
        looks = step == self.resolved.total_steps or step % self.resolved.validation_every_steps == 0
        few = full = None
        if step == self.resolved.total_steps or self.batches.ends_epoch(step) or (looks and self.stopping is not None):
            full = self._measure(self.validation.all_segments())
        if looks:
            few = self._measure(self.validation.subset())
        return few, full

    def _measure(self, segments: list[Segment]) -> Mean:
        micro_tokens = self.execution.micro_tokens
        units = pairs_of(segments) if self.preference else [[segment] for segment in segments]
        shared = [units[i] for i in self.world.share([sum(len(s.token_ids) for s in unit) for unit in units])]
        own = [segment for unit in shared for segment in unit]
        if self.preference is None:
            mean = mean_loss(self.model, own, micro_tokens)
            mean = self.world.overall(mean, mean.supervised_tokens)
        else:
            mean = self.world.overall(self.preference.mean(own, micro_tokens), len(shared))
        if not math.isfinite(mean.loss):
            raise AttuneError(
                f"step {self.progress.step}: the validation loss is not finite; lower learning_rate_multiplier",
                code="loss_not_finite",
                param="hyperparameters.learning_rate_multiplier",
            )
        return mean

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
        metrics = _checkpoint(last, self.folder.adapter)
        if self.stopping is not None:
            metrics = self._take_best(self.stopping, last)
        if isinstance(self.modules, FullWeights):  # what is measured is what is published
            self.modules.round_to(stored_dtype(Path(self.task.base_folder)))
        probe = probe_segments(
            self.folder, self.renderer, resolved.max_example_tokens, resolved.method, resolved.too_long
        )
        final = self._measure(probe)
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


def _rewards(prefix: str, rewards: Rewards | None) -> dict[str, float]:
    """As `Step` names them."""
    if rewards is None:
        return {}
    return {f"{prefix}rewards_accuracy": rewards.accuracy, f"{prefix}rewards_margin": rewards.margin}


def _checkpoint(step: Step, folder: Path, samples: tuple[Sample, ...] = ()) -> CheckpointSaved:
    """The report of an adapter published at `step`."""
    return CheckpointSaved(
        step=step.step,
        folder=str(folder),
        train_loss=step.train_loss,
        train_mean_token_accuracy=step.train_mean_token_accuracy,
        valid_loss=step.valid_loss,
        valid_mean_token_accuracy=step.valid_mean_token_accuracy,
        full_valid_loss=step.full_valid_loss,
        full_valid_mean_token_accuracy=step.full_valid_mean_token_accuracy,
        samples=samples,
    )
