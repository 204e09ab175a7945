"""`make bench-plan`: the plan's peak memory against the measured one, on the CPU, each run a fresh process.

The last line is JSON: configurations, worst_error (share of the measured peak).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from core.bases.model_shape import shape_of
from core.planning.memory_plan import Workload, memory
from core.protocol import TrainTask, WorkFolder
from core.spec import Execution, LoraSettings, Quantization, Resolved, Training
from tests.engine.tiny_base import make_base
from worker.engine.model import parameter_count

MIB = 1024**2
STEPS = 2  # the second has the optimizer's moments beside it


@dataclass(frozen=True)
class Configuration:
    name: str
    hidden: int = 512
    layers: int = 8
    ffn: int = 1408
    vocab: int = 8192
    heads: int = 8
    kv_heads: int = 4
    tied: bool = True
    quantization: Quantization = Quantization.NF4
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    training: Training = Training.LORA
    rank: int = 16
    dropout: float = 0.0
    tokens: int = 512  # of each example
    batch: int = 2
    micro_tokens: int = 1024
    checkpointing: bool = False


CONFIGURATIONS = (
    Configuration("tiny", hidden=256, layers=4, ffn=704, heads=4, kv_heads=2, tokens=256, micro_tokens=512),
    Configuration("small", micro_tokens=1024),
    Configuration("long pack", tokens=1024, batch=4, micro_tokens=4096),
    Configuration("float32", precision="float32", tokens=1024, micro_tokens=2048),
    Configuration("wide", hidden=1024, ffn=4096, layers=6, heads=16, kv_heads=4, micro_tokens=1024),
    Configuration("large vocabulary", vocab=65536, tokens=512, batch=4, micro_tokens=2048),
    Configuration("high rank", rank=256, micro_tokens=1024),
    Configuration("not quantised", hidden=1024, ffn=4096, layers=8, heads=16, kv_heads=16,
                  quantization=Quantization.NONE, tied=False, vocab=32768),
    Configuration("all weights", training=Training.FULL, quantization=Quantization.NONE, precision="float32"),
    Configuration("recomputed", tokens=1024, batch=4, micro_tokens=4096, checkpointing=True),
    Configuration("recomputed and deep", layers=16, tokens=2048, batch=2, micro_tokens=4096, checkpointing=True),
    Configuration("recomputed and wide", hidden=1024, ffn=4096, layers=6, heads=16, kv_heads=4, tokens=1024, batch=2,
                  micro_tokens=2048, checkpointing=True),
    Configuration("dropout", dropout=0.1, tokens=1024, batch=2, micro_tokens=2048),
    Configuration("deep", layers=16, tokens=1024, batch=3, micro_tokens=3072),
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    configuration: Configuration
    parts: dict[str, int]
    measured: dict[str, int]

    @property
    def predicted_bytes(self) -> int:
        return sum(self.parts.values())

    @property
    def error(self) -> float:
        return abs(self.predicted_bytes - self.measured["peak_bytes"]) / self.measured["peak_bytes"]


def compare(one: Configuration, folder: Path) -> Outcome:
    base = make_base(
        folder / "base",
        hidden=one.hidden,
        layers=one.layers,
        heads=one.heads,
        kv_heads=one.kv_heads,
        ffn=one.ffn,
        vocab=one.vocab,
        context=4096,
        tied=one.tied,
        dtype=torch.bfloat16,
    )
    work = WorkFolder(folder / "work")
    work.root.mkdir()
    resolved, execution = _write_task(work, one, base)
    supervised = _write_examples(work.training, one)
    parts = memory(
        resolved,
        shape_of(json.loads((base / "config.json").read_bytes()), parameter_count(base)),
        execution,
        Workload(longest_tokens=one.tokens, step_tokens=one.batch * one.tokens, supervised_share=supervised),
        on_gpu=False,
    )
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.plan_arm", str(work.root)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{one.name}: the engine ended with {done.returncode}\n{done.stderr[-3000:]}")
    return Outcome(one, parts, json.loads(done.stdout.splitlines()[-1]))


def _write_task(work: WorkFolder, one: Configuration, base: Path) -> tuple[Resolved, Execution]:
    is_lora = one.training is Training.LORA
    resolved = Resolved(
        n_epochs=1,
        batch_size=one.batch,
        learning_rate_multiplier=1.0,
        learning_rate=1e-4,
        training=one.training,
        lora=LoraSettings(rank=one.rank, scale=2.0, dropout=one.dropout) if is_lora else None,
        quantization=one.quantization,
        max_example_tokens=4096,
        warmup_steps=0,
        total_steps=STEPS,
        max_grad_norm=1.0,
        weight_decay=0.0,
        validation_every_steps=STEPS,
        checkpoint_every_steps=STEPS,
    )
    execution = Execution(
        precision=one.precision, micro_tokens=one.micro_tokens, threads=1, checkpointing=one.checkpointing
    )
    task = TrainTask(
        job_id="ftjob-plan",
        attempt=1,
        base_model="plan",
        base_revision="1",
        base_folder=str(base),
        resolved=resolved,
        seed=1,
        execution=execution,
        template_date="2026-01-01",
        snapshot_interval_s=0.0,
        device="cpu",
    )
    work.task.write_text(task.model_dump_json())
    return resolved, execution


def _write_examples(path: Path, one: Configuration) -> float:
    """Prompt and completion, a byte a token (capital letters make no pairs that the tokenizer knows); half of
    it supervised. Returns that share."""
    half = one.tokens // 2
    line = json.dumps({"prompt": "Q" * half, "completion": "Z" * (one.tokens - half - 1)})
    path.write_text(f"{line}\n" * (STEPS * one.batch))
    return 0.5


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.bench.plan")
    parser.add_argument("--only", nargs="*", help="names of configurations; all without it")
    only = parser.parse_args().only
    chosen = [one for one in CONFIGURATIONS if only is None or one.name in only]
    print(f"{'configuration':22}{'predicted':>12}{'measured':>12}{'error':>9}   by part, MiB")
    outcomes: list[Outcome] = []
    for one in chosen:
        folder = Path(tempfile.mkdtemp(prefix="bench-plan-"))
        try:
            outcome = compare(one, folder)
        finally:
            shutil.rmtree(folder)
        outcomes.append(outcome)
        measured = outcome.measured["peak_bytes"]
        shown = ", ".join(f"{name} {size // MIB}" for name, size in outcome.parts.items())
        print(
            f"{one.name:22}{outcome.predicted_bytes / MIB:8.0f} MiB{measured / MIB:8.0f} MiB"
            f"{(outcome.predicted_bytes - measured) / measured:+9.1%}   {shown}",
            flush=True,
        )
    peaks = [outcome.measured["peak_bytes"] for outcome in outcomes]
    print(f"The largest needs {max(peaks) / min(peaks):.1f} times what the smallest does.")
    print(json.dumps({"configurations": len(outcomes), "worst_error": round(max(o.error for o in outcomes), 4)}))


if __name__ == "__main__":
    main()
