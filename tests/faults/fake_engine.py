"""An engine that trains nothing and keeps every promise of core.protocol, for runs by the thousand.

Its "adapter" is a chain of hashes over seed, data and steps, so a run that lost, repeated or reordered a step ends
in other bytes. Snapshots go through the real engine's way of publishing folders.
"""

from __future__ import annotations

import os
import sys

_PROTOCOL = os.dup(1)
os.dup2(2, 1)

import hashlib  # noqa: E402
import json  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

from core.durable import NO_ROOM  # noqa: E402
from core.protocol import (  # noqa: E402
    Check,
    CheckpointSaved,
    Exit,
    Failed,
    Message,
    Proof,
    Prove,
    Ready,
    SnapshotFailed,
    SnapshotSaved,
    Started,
    Step,
    Stopped,
    Trained,
    TrainTask,
    WorkFolder,
)
from core.spec import Execution  # noqa: E402
from worker.engine.commands import Commands, Reports, Work  # noqa: E402
from worker.engine.publish import published, write_bytes  # noqa: E402

STEP_S = float(os.environ.get("FAKE_STEP_S", "0.02"))  # absent where the runner starts it: its environment is clean
SNAPSHOT_EVERY = 5
CHECKPOINT_EVERY = 20
POISON = b"poison"  # a training file that holds this word kills the engine at POISON_STEP
HANG = b"hang forever"  # and this one makes it sleep there
NAN = b"not a number"
MEMORY = b"too large"
SHORT_OF_MEMORY = b"short of it"  # the engine takes a rung of the ladder there, and goes on from its snapshot
HOST_MEMORY = b"host memory"
HOST_BYTES = 1 << 32  # which a machine promises, unless the process is limited
POISON_STEP = 7


class State:
    """step and the chain's last link."""

    def __init__(self, step: int, link: str) -> None:
        self.step, self.link = step, link

    def advance(self) -> None:
        self.step += 1
        self.link = hashlib.sha256(f"{self.link}{self.step}".encode()).hexdigest()

    @property
    def loss(self) -> float:
        return 1.0 + int(self.link[:8], 16) / 0xFFFFFFFF


def _begin(task: TrainTask, folder: WorkFolder, reports: Reports) -> State:
    """From the newest snapshot that verifies, or from the start."""
    found = sorted(folder.snapshots.glob("step-*"), key=lambda path: path.name, reverse=True)
    for snapshot in found:
        try:
            manifest = json.loads((snapshot / "manifest.json").read_bytes())
            state = (snapshot / "state.json").read_bytes()
            if hashlib.sha256(state).hexdigest() == manifest["sha256"]:
                return State(**json.loads(state))
        except (OSError, ValueError, KeyError):
            pass
        reports(Message(level="warn", message=f"snapshot {snapshot.name} is not resumed from: it does not verify"))
    data = hashlib.sha256(folder.training.read_bytes()).hexdigest()
    return State(0, hashlib.sha256(f"{task.seed}{data}".encode()).hexdigest())


def _save(state: State, task: TrainTask, folder: WorkFolder, reports: Reports) -> None:
    """As the real engine does: without room it says so, and goes on."""
    try:
        _save_whole(state, task, folder, reports)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        reports(SnapshotFailed(step=state.step, reason=str(error)))


def _save_whole(state: State, task: TrainTask, folder: WorkFolder, reports: Reports) -> None:
    text = json.dumps({"step": state.step, "link": state.link}).encode()
    manifest = json.dumps({"sha256": hashlib.sha256(text).hexdigest()}).encode()
    target = folder.snapshots / f"step-{state.step:08d}-attempt-{task.attempt}"
    with published(target) as partial:
        write_bytes(partial / "state.json", text)
        write_bytes(partial / "manifest.json", manifest)
    reports(SnapshotSaved(step=state.step, folder=str(target), manifest_sha256=hashlib.sha256(manifest).hexdigest()))


def _adapter(state: State, target: Path) -> str:
    with published(target) as partial:
        write_bytes(partial / "adapter_model.safetensors", state.link.encode() * 64)
        write_bytes(partial / "adapter_config.json", b'{"peft_type": "LORA"}')
    return hashlib.sha256(state.link.encode() * 64).hexdigest()


def _checkpoint(state: State, folder: Path) -> CheckpointSaved:
    return CheckpointSaved(step=state.step, folder=str(folder), train_loss=state.loss, train_mean_token_accuracy=0.5)


def _started(task: TrainTask, state: State, execution: Execution, data: bytes) -> Started:
    return Started(
        execution=execution,
        device="cpu",
        device_name="none",
        memory_bytes={"weights": execution.micro_tokens, "activations": 0 if execution.checkpointing else 512},
        total_steps=task.resolved.total_steps,
        resumed_step=state.step,
        training_examples=data.count(b"\n") + 1,
        training_tokens=100,
        supervised_tokens=50,
        trainable_parameters=1,
        total_parameters=2,
        data_sha256=hashlib.sha256(data).hexdigest(),
        template_hash="fake",
    )


def _train(item: Work, folder: WorkFolder, reports: Reports) -> Failed | None:
    task = TrainTask.model_validate_json(folder.task.read_bytes())
    data = folder.training.read_bytes()
    state = _begin(task, folder, reports)
    total = task.resolved.total_steps
    execution = task.execution or Execution(precision="float32", micro_tokens=512, threads=1)
    reports(_started(task, state, execution, data))
    while state.step < total:
        if item.stop.is_set():
            if state.step % SNAPSHOT_EVERY:  # else it is saved, or there is nothing to save
                _save(state, task, folder, reports)
            reports(Stopped(step=state.step))
            return None
        time.sleep(STEP_S)
        if state.step + 1 == POISON_STEP:
            if POISON in data:
                os.abort()
            if HANG in data:
                time.sleep(3600)
            if NAN in data:
                text = f"step {POISON_STEP}: the loss is not finite"
                return Failed(kind="user", code="loss_not_finite", message=text)
            if MEMORY in data:
                return Failed(kind="out_of_memory", code="out_of_memory", message="the device's memory was not enough")
            if SHORT_OF_MEMORY in data and not execution.checkpointing:
                execution = execution.model_copy(update={"checkpointing": True})
                reports(Message(level="warn", message="Memory ran out", data={"checkpointing": True}))
                state = _begin(task, folder, reports)
                reports(_started(task, state, execution, data))
                continue
            if HOST_MEMORY in data:
                try:
                    bytearray(HOST_BYTES)
                except MemoryError:
                    return Failed(kind="out_of_memory", code="out_of_memory", message="the memory was not enough")
        state.advance()
        reports(
            Step(
                step=state.step,
                total_steps=total,
                train_loss=state.loss + (1e-9 if execution.checkpointing else 0.0),  # rounding
                train_mean_token_accuracy=0.5,
                learning_rate=1e-4,
                grad_norm=1.0,
                tokens=10,
                tokens_per_s=10 / STEP_S,
                peak_memory_bytes=1000 + state.step,
            )
        )
        if state.step % CHECKPOINT_EVERY == 0 and state.step < total:
            target = folder.checkpoints / f"step-{state.step}"
            _adapter(state, target)
            reports(_checkpoint(state, target))
        if state.step % SNAPSHOT_EVERY == 0 and state.step < total:
            _save(state, task, folder, reports)
    sha256 = _adapter(state, folder.adapter)
    reports(
        Trained(
            folder=str(folder.adapter),
            trained_tokens=10 * total,
            train_loss=state.loss,
            metrics=_checkpoint(state, folder.adapter),
            steps=total,
            final_valid_loss=state.loss,
            adapter_sha256=sha256,
        )
    )
    return None


def _prove(folder: WorkFolder) -> Proof:
    same = all((folder.published / path.name).read_bytes() == path.read_bytes() for path in folder.adapter.iterdir())
    return Proof(passed=same, checks=[Check(name="loads", passed=same, detail="the published bytes are those made")])


def main() -> None:
    commands = Commands(sys.stdin.buffer)
    threading.Thread(target=commands.watch, name="commands", daemon=True).start()
    reports = Reports(_PROTOCOL)
    reports(Ready(device="cpu", device_name="none", memory_bytes=1 << 36, versions={"fake": "1"}))
    while True:
        item = commands.next()
        if isinstance(item.command, Exit):
            os._exit(0)
        folder = WorkFolder(Path(item.command.folder))
        if isinstance(item.command, Prove):
            reports(_prove(folder))
            continue
        failure = _train(item, folder, reports)
        if failure is not None:
            reports(failure)
            if failure.kind != "user":
                os._exit(1)


main()
