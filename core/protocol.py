"""What the runner and the engine say to each other: one JSON object a line, commands in, reports out.

The engine reads commands on stdin and reports on the descriptor that was its stdout at start. Everything bulky
goes through the job's work folder, whose layout is `WorkFolder`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from core.spec import Execution, Frozen, Quantization, Resolved, SamplePrompt


class WorkFolder:
    """The paths of one attempt of one job, below one root. The runner fills it, the engine adds to it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.task = root / "task.json"  # TrainTask
        self.training = root / "training.jsonl"
        self.validation = root / "validation.jsonl"  # absent without a validation file
        self.start_adapter = root / "start_adapter"  # PEFT folder of continued training, else absent
        self.snapshots = root / "snapshots"  # one folder a snapshot; the newest valid one is resumed from
        self.checkpoints = root / "checkpoints"  # step-N/: published PEFT folders
        self.adapter = root / "adapter"  # the final PEFT folder
        self.published = root / "published"  # the adapter's bytes as storage gave them back, for the proof


class TrainTask(Frozen):
    """One training run. `base_folder` holds config.json, tokenizer.json, *.safetensors …; paths are absolute."""

    job_id: str
    attempt: int
    base_model: str  # written to adapter_config.json as base_model_name_or_path
    base_revision: str
    base_folder: str
    resolved: Resolved
    seed: int
    execution: Execution | None = None  # None at the first claim: the engine chooses and reports it
    template_date: str  # YYYY-MM-DD that the template's strftime_now sees
    snapshot_interval_s: float = 10.0  # least time between two snapshots
    keep_snapshots: int = 2
    device: str = "auto"  # "auto", "cpu", "cuda", "cuda:1"
    memory_bytes: int | None = None  # of the device that the run may plan with; None: all


class Train(Frozen):
    command: Literal["train"] = "train"
    folder: str  # of a WorkFolder with task.json


class Prove(Frozen):
    """Load `folder`/published in the serving path and compare it with what training measured."""

    command: Literal["prove"] = "prove"
    folder: str


class Stop(Frozen):
    """End the running job at the next step boundary with a snapshot."""

    command: Literal["stop"] = "stop"


class Exit(Frozen):
    command: Literal["exit"] = "exit"


Command = Annotated[Train | Prove | Stop | Exit, Field(discriminator="command")]


class Ready(Frozen):
    report: Literal["ready"] = "ready"
    device: str
    device_name: str
    memory_bytes: int  # of the device: GPU memory, or the machine's
    versions: dict[str, str]


class Started(Frozen):
    """The data is tokenised and the model stands; step 1 (or `resumed_step` + 1) comes next."""

    report: Literal["started"] = "started"
    execution: Execution
    device: str
    device_name: str
    memory_bytes: dict[str, int]  # planned for this execution on that device, by part
    total_steps: int
    resumed_step: int  # 0 for a fresh start
    training_examples: int
    training_tokens: int  # of one epoch
    supervised_tokens: int  # of one epoch
    trainable_parameters: int
    total_parameters: int
    data_sha256: str  # of the tokenised training data
    template_hash: str


class Step(Frozen):
    """One optimizer step. Losses are nats per supervised token, or per preference pair; accuracy is of the next
    token, of a pair's on its preferred answer."""

    report: Literal["step"] = "step"
    step: int
    total_steps: int
    train_loss: float
    train_mean_token_accuracy: float
    learning_rate: float
    grad_norm: float
    tokens: int  # in this step, prompt and completion
    tokens_per_s: float
    peak_memory_bytes: int | None = None  # of the run so far; None where it is not measured
    valid_loss: float | None = None
    valid_mean_token_accuracy: float | None = None
    full_valid_loss: float | None = None
    full_valid_mean_token_accuracy: float | None = None
    # Of preference pairs: the share in which the preferred answer is ahead of the reference, and by how many nats
    # times beta
    rewards_accuracy: float | None = None
    rewards_margin: float | None = None
    valid_rewards_accuracy: float | None = None
    valid_rewards_margin: float | None = None
    full_valid_rewards_accuracy: float | None = None
    full_valid_rewards_margin: float | None = None


class SnapshotSaved(Frozen):
    report: Literal["snapshot"] = "snapshot"
    step: int
    folder: str
    manifest_sha256: str


class SnapshotFailed(Frozen):
    """There was no room for a snapshot. The one before it stands, and training goes on."""

    report: Literal["snapshot_failed"] = "snapshot_failed"
    step: int
    reason: str


class Sample(Frozen):
    """What the weights of a checkpoint answer to one of the job's sample prompts, greedily."""

    prompt: SamplePrompt
    answer: str


class CheckpointSaved(Frozen):
    report: Literal["checkpoint"] = "checkpoint"
    step: int
    folder: str  # PEFT folder, or a model's where every weight was trained
    train_loss: float
    train_mean_token_accuracy: float
    valid_loss: float | None = None
    valid_mean_token_accuracy: float | None = None
    full_valid_loss: float | None = None
    full_valid_mean_token_accuracy: float | None = None
    samples: tuple[Sample, ...] = ()


class Message(Frozen):
    """Something the user should read in the job's events."""

    report: Literal["message"] = "message"
    level: Literal["info", "warn", "error"] = "info"
    message: str
    data: dict[str, str | int | float | bool | None] = Field(default_factory=dict)


class Trained(Frozen):
    """Training reached its end; the final folder stands: PEFT's, or a model's where every weight was trained."""

    report: Literal["trained"] = "trained"
    folder: str
    trained_tokens: int  # all epochs
    train_loss: float
    metrics: CheckpointSaved  # of the step whose weights are published, as a checkpoint would carry them
    steps: int  # optimizer steps made
    stopped_early: bool = False
    final_valid_loss: float  # on the probe set that the proof recomputes: validation file, else first examples
    adapter_sha256: str  # of the weights' file
    peak_memory_bytes: int | None = None  # of the run; of several processes, the one that took the most


class Stopped(Frozen):
    """Answer to Stop: the newest snapshot holds everything."""

    report: Literal["stopped"] = "stopped"
    step: int


class Failed(Frozen):
    """The job cannot go on. kind: user (their data or choice), out_of_memory, internal."""

    report: Literal["failed"] = "failed"
    kind: Literal["user", "out_of_memory", "internal"]
    code: str
    message: str
    param: str | None = None


class Check(Frozen):
    name: Literal["loads", "every_tensor_mapped", "changes_logits", "validation_loss", "end_token", "template_hash"]
    passed: bool
    detail: str  # what was measured, in words


class Proof(Frozen):
    """The verdict on the published bytes; stored with the adapter and shown."""

    report: Literal["proof"] = "proof"
    passed: bool
    checks: list[Check]
    validation_loss_trainer: float | None = None
    validation_loss_server: float | None = None
    max_logit_change: float | None = None
    # Of the same adapter on the probe set over bases held otherwise; None where the device's memory was not enough
    perplexities: dict[Quantization, float | None] | None = None


class FinalReport(Frozen):
    """What a finished job came to. Losses are nats per supervised token; perplexity is their exponential."""

    step: int  # whose weights were published
    steps: int  # optimizer steps made
    stopped_early: bool
    validation_loss: float | None = None  # over the whole validation file
    validation_perplexity: float | None = None
    perplexities: dict[Quantization, float | None] | None = None  # by how the base is held, on the probe set


_AnyReport = (
    Ready
    | Started
    | Step
    | SnapshotSaved
    | SnapshotFailed
    | CheckpointSaved
    | Message
    | Trained
    | Stopped
    | Failed
    | Proof
)
Report = Annotated[_AnyReport, Field(discriminator="report")]

parse_command: TypeAdapter[Train | Prove | Stop | Exit] = TypeAdapter(Command)
parse_report: TypeAdapter[_AnyReport] = TypeAdapter(Report)
