"""`make bench-tokens`: how fast one core turns a file of chats into packed micro-steps, and what memory that takes.

The text is the language reference that Python brings with it, its tokenizer a BPE of 16,384 tokens trained on that.
Tokens per second are of processor time, which other processes hardly change. Prints a table and ends in one line of
JSON: medians of five repeats.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import cast

import torch
from rich.console import Console
from rich.table import Table

from core.rendering.render import Renderer
from tests.bench.train_material import write_tokenizer
from worker.engine.data import Batches, Dataset, tokenise
from worker.engine.pack import Pack, pack_micro_steps

VOCABULARY = 16384
MEAN_CHARACTERS = 300  # of a question or an answer
MOST_TOKENS = 4096
REPEATS = 5
BATCH, MICRO_TOKENS = 8, 2048
SEED = 3
MIB = 2**20


@dataclass(frozen=True)
class Measured:
    """One file in a process of its own; seconds of its processor, medians."""

    examples: int
    tokens: int
    tokenise_s: float
    pack_s: float
    wall_s: float  # of both
    grown_bytes: int  # of memory that is no map of a file, by one tokenising and packing


def write_base(folder: Path) -> None:
    """A tokenizer with a chat template; no model."""
    folder.mkdir()
    write_tokenizer(folder, topics.values(), VOCABULARY)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))


def write_chats(path: Path, count: int) -> None:
    """Chats of one to three questions and answers, each a piece of the reference."""
    chance = random.Random(SEED)
    text = "\n".join(topics.values())

    def piece() -> str:
        length = 1 + round(chance.expovariate(1 / MEAN_CHARACTERS))
        start = chance.randrange(len(text) - length)
        return text[start : start + length].strip() or "None"

    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            turns = [{"role": role, "content": piece()} for role in ("user", "assistant") * chance.randint(1, 3)]
            file.write(json.dumps({"messages": turns}, ensure_ascii=False) + "\n")


def pack(data: Dataset) -> None:
    """Every micro-step of an epoch."""
    batches = Batches(len(data), BATCH, SEED)
    for step in range(1, batches.steps_per_epoch + 1):
        segments = [segment for i in batches.of_step(step) for segment in data.segments(i)]
        for micro in pack_micro_steps([len(segment.token_ids) for segment in segments], MICRO_TOKENS):
            Pack.of([segments[i] for i in micro], torch.device("cpu"))


def _anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def measure(root: Path, examples: int, repeats: int) -> Measured:
    """Run in a process of its own."""
    torch.set_num_threads(1)
    renderer = Renderer.from_folder(root / "base", "2026-01-01")
    warm, path = root / "warm.jsonl", root / f"{examples}.jsonl"
    pack(tokenise(warm, renderer, MOST_TOKENS))  # what the first examples cost is no growth
    before = _anonymous_bytes()
    data = tokenise(path, renderer, MOST_TOKENS)
    pack(data)
    grown = _anonymous_bytes() - before
    begun = time.perf_counter()
    tokenised = [_processor_s(lambda: tokenise(path, renderer, MOST_TOKENS)) for _ in range(repeats)]
    packed = [_processor_s(lambda: pack(data)) for _ in range(repeats)]
    wall_s = (time.perf_counter() - begun) / max(repeats, 1)
    return Measured(
        examples, data.tokens, statistics.median(tokenised), statistics.median(packed), wall_s, max(grown, 0)
    )


def _processor_s(run: Callable[[], object]) -> float:
    begun = time.process_time()
    run()
    return time.process_time() - begun


def compare(examples: int, repeats: int) -> list[Measured]:
    """A file, and one of four times as many examples: memory must not follow."""
    found: list[Measured] = []
    with tempfile.TemporaryDirectory(prefix="attune-tokens-") as folder:
        root = Path(folder)
        write_base(root / "base")
        write_chats(root / "warm.jsonl", 200)
        for count in (examples, 4 * examples):
            write_chats(root / f"{count}.jsonl", count)
            command = [sys.executable, "-m", "tests.bench.tokens", "--measure", str(root)]
            command += ["--examples", str(count), "--repeats", str(repeats)]
            done = subprocess.run(command, check=True, capture_output=True, env=_one_core(), text=True)
            found.append(Measured(**json.loads(done.stdout)))
    return found


def _one_core() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    examples, repeats = cast("int", arguments.examples), cast("int", arguments.repeats)
    if arguments.measure is not None:
        print(json.dumps(asdict(measure(arguments.measure, examples, repeats))))
        return
    found = compare(examples, repeats)
    table = Table(title="Chats to packed micro-steps on one core, by processor time")
    for heading in ("examples", "tokens", "tokenise, tokens/s", "pack, tokens/s", "both", "both by wall", "grown MiB"):
        table.add_column(heading, justify="right")
    for one in found:
        times = (one.tokenise_s, one.pack_s, one.tokenise_s + one.pack_s, one.wall_s)
        rates = [f"{one.tokens / seconds:,.0f}" for seconds in times]
        table.add_row(f"{one.examples:,}", f"{one.tokens:,}", *rates, f"{one.grown_bytes / MIB:.1f}")
    Console(width=120).print(table)
    small, large = found
    figures = {
        "tokens_per_s": round(large.tokens / (large.tokenise_s + large.pack_s)),
        "tokens_per_s_by_wall": round(large.tokens / large.wall_s),
        "grown_mib": round(small.grown_bytes / MIB, 1),
        "grown_mib_of_four_times_the_examples": round(large.grown_bytes / MIB, 1),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
