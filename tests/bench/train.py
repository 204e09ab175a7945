"""`make bench-train`: the engine beside TRL's SFTTrainer on the CPU, QLoRA on the same weights, data and order.

The trainers take turns, a few optimizer steps at a time, each in a process of its own. First comes the gate: the
loss of every step within 1 % of a padded reference. Prints a table and ends in one line of JSON, whose ratios are of
wall time; `by_cpu_time` are the same of processor seconds, which another process on the machine hardly changes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

from rich.console import Console
from rich.table import Table

from core.protocol import TrainTask, WorkFolder
from core.rendering.render import Renderer
from core.spec import LoraSettings, Quantization, Resolved
from tests.bench.train_material import Profile, Size, conversations, make_base, small
from worker.engine.data import Batches, tokenise

GATE = 0.01  # of the reference's loss, at every step
SEED = 11
SIZES = [small(4, 256, 8192), small(8, 512, 16384), small(12, 768, 32768)]


@dataclass(frozen=True)
class Scale:
    """How much is run."""

    sizes: list[Size]
    chat: Profile
    constant: Profile
    gate: Profile
    gate_steps: int
    discarded: int  # optimizer steps before the first timed one
    chat_steps: int  # per turn
    constant_steps: int
    turns: int


CHAT = Profile("chat", mean=180, spread=0.8, most=2048, supervised=0.5, examples_per_step=8)
CONSTANT = Profile("constant", mean=4096, spread=0.0, most=4096, supervised=1.0, examples_per_step=1)
GATED = replace(CHAT, examples_per_step=2)  # as many steps for a quarter of the time
FULL = Scale(SIZES, CHAT, CONSTANT, GATED, gate_steps=50, discarded=2, chat_steps=2, constant_steps=1, turns=3)
SHORT = Scale(
    SIZES[:2],
    CHAT,
    Profile("constant", 1024, 0.0, 1024, 1.0, 2),
    GATED,
    gate_steps=20,
    discarded=1,
    chat_steps=2,
    constant_steps=1,
    turns=3,
)


class Answer(TypedDict):
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    losses: list[float]


@dataclass(frozen=True)
class Measured:
    """One trainer on one size and profile."""

    tokens_per_s: list[float]  # supervised, one for each turn
    cpu_ms_per_token: list[float]  # one for each turn
    peak_bytes: int  # above the idle process with its libraries loaded
    losses: list[float]


class Arm:
    """A trainer in a process of its own."""

    def __init__(self, name: str, root: Path, threads: int) -> None:
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "HF_HUB_OFFLINE": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        self.name = name
        self._log = root / f"{name}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.bench.train_arm", name, str(root), str(threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
            )

    def steps(self, count: int) -> Answer:
        """Train `count` optimizer steps."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{count}\n".encode())
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended:\n{self._log.read_text()[-3000:]}")
        return json.loads(line)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def prepare(root: Path, size: Size, profile: Profile, steps: int, device: str = "cpu") -> list[int]:
    """A work folder with base, data and task; the supervised tokens of each optimizer step."""
    base = root / "base"
    vocabulary = make_base(base, size, device)
    folder = WorkFolder(root)
    rows = conversations(vocabulary, profile, steps * profile.examples_per_step)
    folder.training.write_text("".join(row + "\n" for row in rows))
    resolved = Resolved(
        n_epochs=1,
        batch_size=profile.examples_per_step,
        learning_rate_multiplier=1.0,
        learning_rate=1e-3,  # high, so that a wrong gradient shows in the losses of the gate
        lora=LoraSettings(rank=16, scale=2.0, dropout=0.0),
        quantization=Quantization.NF4,
        max_example_tokens=profile.most,
        warmup_steps=0,
        total_steps=steps,
        max_grad_norm=1.0,
        weight_decay=0.0,
        validation_every_steps=steps + 1,
        checkpoint_every_steps=steps + 1,
    )
    task = TrainTask(
        job_id="ftjob-bench",
        attempt=1,
        base_model="bench",
        base_revision="1",
        base_folder=str(base),
        resolved=resolved,
        seed=SEED,
        template_date="2026-01-01",
        snapshot_interval_s=1e9,
        device=device,
    )
    folder.task.write_text(task.model_dump_json())
    data = tokenise(folder.training, Renderer.from_folder(base, task.template_date), profile.most)
    batches = Batches(len(data), profile.examples_per_step, SEED)
    return [
        sum(int(segment.mask.sum()) for i in batches.of_step(number) for segment in data.segments(i))
        for number in range(1, steps + 1)
    ]


def compare(
    names: list[str], size: Size, profile: Profile, scale: Scale, steps: int, threads: int
) -> dict[str, Measured]:
    """Turns of `steps` optimizer steps."""
    total = scale.discarded + scale.turns * steps
    with tempfile.TemporaryDirectory(prefix="attune-bench-") as folder:
        root = Path(folder)
        supervised = prepare(root, size, profile, total + 1)
        arms = [Arm(name, root, threads) for name in names]
        try:
            last = {arm.name: arm.steps(scale.discarded) for arm in arms}
            rates: dict[str, list[float]] = {name: [] for name in names}
            cpu: dict[str, list[float]] = {name: [] for name in names}
            for turn in range(scale.turns):
                first = scale.discarded + turn * steps
                tokens = sum(supervised[first : first + steps])
                for arm in arms:
                    answer = last[arm.name] = arm.steps(steps)
                    rates[arm.name].append(tokens / answer["seconds"])
                    cpu[arm.name].append(1000 * answer["cpu_seconds"] / tokens)
        finally:
            for arm in arms:
                arm.end()
    return {name: Measured(rates[name], cpu[name], last[name]["peak_bytes"], last[name]["losses"]) for name in names}


def through_the_gate(names: list[str], size: Size, scale: Scale, threads: int) -> dict[str, Measured]:
    """Trainers beside the padded reference, over as many optimizer steps as the gate has."""
    in_one_turn = replace(scale, discarded=1, turns=1)
    return compare([*names, "reference"], size, scale.gate, in_one_turn, scale.gate_steps - 1, threads)


def gap(arm: Measured, reference: Measured) -> float:
    """Largest difference of a step's loss, relative to the reference's."""
    pairs = list(zip(arm.losses, reference.losses, strict=False))
    assert pairs
    return max(abs(own - theirs) / theirs for own, theirs in pairs)


def ratio(ours: Measured, other: Measured) -> float:
    """How many times faster we are: the median over the turns, each beside its neighbour in time."""
    return statistics.median(a / b for a, b in zip(ours.tokens_per_s, other.tokens_per_s, strict=True))


def cpu_ratio(ours: Measured, other: Measured) -> float:
    """The like of processor seconds."""
    return statistics.median(b / a for a, b in zip(ours.cpu_ms_per_token, other.cpu_ms_per_token, strict=True))


def show(console: Console, title: str, measured: dict[str, Measured]) -> None:
    table = Table(title=title)
    headings = ("trainer", "supervised tokens/s", "spread", "we are", "CPU ms/token", "by CPU", "peak MiB", "loss gap")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "trainer" else "right")
    for name, arm in measured.items():
        median = statistics.median(arm.tokens_per_s)
        table.add_row(
            name,
            f"{median:.0f}",
            f"{min(arm.tokens_per_s):.0f} … {max(arm.tokens_per_s):.0f}",
            f"{ratio(measured['ours'], arm):.2f}x",
            f"{statistics.median(arm.cpu_ms_per_token):.2f}",
            f"{cpu_ratio(measured['ours'], arm):.2f}x",
            f"{arm.peak_bytes / 2**20:.0f}",
            f"{gap(arm, measured.get('reference', measured['ours'])):.2%}",
        )
    console.print(table)


def run(scale: Scale, threads: int, console: Console) -> dict[str, object]:
    """The figures, each the worst over the sizes."""
    begun = time.monotonic()
    gates: list[dict[str, Measured]] = []
    chats: list[dict[str, Measured]] = []
    constants: list[dict[str, Measured]] = []
    for size in scale.sizes:
        gates.append(through_the_gate(["ours"], size, scale, threads))
        show(console, f"{size.name}, the gate: {scale.gate_steps} optimizer steps", gates[-1])
        names = ["ours", "trl-default", "trl-best"]
        chats.append(compare(names, size, scale.chat, scale, scale.chat_steps, threads))
        show(console, f"{size.name}, short chats", chats[-1])
        constants.append(compare(["ours", "trl-best"], size, scale.constant, scale, scale.constant_steps, threads))
        show(console, f"{size.name}, constant {scale.constant.mean} tokens", constants[-1])
    loss_gap = max(gap(each["ours"], each["reference"]) for each in gates)
    peaks = [each["ours"].peak_bytes / each["trl-best"].peak_bytes for each in (*chats, *constants)]

    def worst(faster: Callable[[Measured, Measured], float]) -> dict[str, float]:
        return {
            "vs_trl_default": round(min(faster(each["ours"], each["trl-default"]) for each in chats), 2),
            "vs_trl_best": round(min(faster(each["ours"], each["trl-best"]) for each in chats), 2),
            "vs_trl_best_constant": round(min(faster(each["ours"], each["trl-best"]) for each in constants), 2),
        }

    return {
        **worst(ratio),
        "peak_memory_vs_trl_best": round(max(peaks), 3),
        "loss_gap": round(loss_gap, 5),
        "loss_gate_holds": loss_gap <= GATE,
        "by_cpu_time": worst(cpu_ratio),
        "sizes": [size.name for size in scale.sizes],
        "minutes": round((time.monotonic() - begun) / 60, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="two sizes and few steps, for a look")
    names = [size.name for size in FULL.sizes]
    parser.add_argument("--size", choices=names, help="one size of the whole run, for a run in parts")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    scale = SHORT if arguments.short else FULL
    if arguments.size is not None:
        scale = replace(scale, sizes=[size for size in FULL.sizes if size.name == arguments.size])
    figures = run(scale, arguments.threads, Console(width=120))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
