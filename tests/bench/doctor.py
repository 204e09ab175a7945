"""`make bench-doctor`: 100 MB of JSONL structurally checked in a process of its own, and one plan worked out anew.

Measures the check from the first byte read to the summary and how much the process grows meanwhile, and the time of
a plan after a slider moved. Prints a table and ends in one line of JSON: medians, and the largest growth. What one
core does is told by processor seconds, which another process on it does not lengthen; the table has both.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from core import plan
from core.data_counts import DataCounts
from core.examples import Checker
from core.model_shape import shape_of, trainable_parameters
from core.spec import Hyperparameters
from tests.live import ROOT

MB = 1_000_000
MIB = 1024 * 1024
READ_BYTES = 1024 * 1024
PLANS = 50
CONFIG = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
}
TEXT = (
    "the order was delivered late: please send a new one or refund what I paid for it, see https://example.com/order "
    "thank you for writing to us; I am sorry to hear that and have asked the warehouse to look into your invoice, "
    'naïve café “quoted” "number" price address account week shipment return label support customer question answer'
)


def write_training_file(path: Path, size: int) -> int:
    """Chats of 150 to 4,000 bytes as json.dumps writes them, some with weights; returns how many."""
    chance = random.Random(1)
    words = TEXT.split()
    written = examples = 0
    with path.open("wb") as file:
        while written < size:
            turns: list[dict[str, object]] = [{"role": "system", "content": "Answer the customer.\nBe brief."}]
            for _ in range(chance.randint(1, 4)):
                asked, answered = (" ".join(chance.choices(words, k=chance.randint(5, 80))) for _ in range(2))
                turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
            if chance.random() < 0.05:
                turns[-1]["weight"] = 1
            line = json.dumps({"messages": turns}, ensure_ascii=False).encode() + b"\n"
            written += file.write(line)
            examples += 1
    return examples


def check(path: Path) -> None:
    """Run in a process of its own: prints seconds, processor seconds and growth in bytes."""
    process = psutil.Process()
    Checker().feed(b'{"text": "what the first line costs is no growth"}\n' * 3)
    idle_bytes = peak_bytes = process.memory_info().rss
    checker = Checker()
    wall, cpu = time.perf_counter(), time.process_time()
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            checker.feed(block)
            peak_bytes = max(peak_bytes, process.memory_info().rss)
    summary = checker.finish()
    figures = (time.perf_counter() - wall, time.process_time() - cpu, peak_bytes - idle_bytes)
    assert summary.error_count == 0, summary.findings
    print(json.dumps([*figures, summary.examples]))


def plan_ms() -> float:
    """One plan for another rank, from counts alone."""
    counts = DataCounts(examples=5000, tokens=2_000_000, supervised_tokens=900_000, longest_tokens=3000)
    shape = shape_of(CONFIG, 8_000_000_000)
    times: list[float] = []
    for rank in range(1, PLANS + 1):
        started = time.perf_counter()
        resolved, _ = plan.resolve(Hyperparameters.model_validate({"lora": {"rank": rank}}), counts, None, shape)
        trainable_parameters(shape, resolved.lora)
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--check", type=Path)
    arguments = parser.parse_args()
    if arguments.check:
        check(arguments.check)
        return
    table = Table(title="100 MB of JSONL, structurally checked")
    for heading in ("run", "MB per second of one core (goal 200)", "MB/s by the clock", "growth, MiB"):
        table.add_column(heading)
    speeds: list[float] = []
    growths: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.jsonl"
        examples = write_training_file(path, 100 * MB)
        size = path.stat().st_size
        for number in range(1, arguments.repeats + 1):
            run = subprocess.run(
                [sys.executable, "-m", "tests.bench.doctor", "--check", str(path)],
                cwd=ROOT, check=True, capture_output=True, text=True,
            )  # fmt: skip
            seconds, cpu_s, growth, found = json.loads(run.stdout)
            assert found == examples
            speeds.append(size / MB / cpu_s)
            growths.append(growth / MIB)
            table.add_row(str(number), f"{speeds[-1]:.0f}", f"{size / MB / seconds:.0f}", f"{growths[-1]:.1f}")
    Console().print(table)
    figures = {
        "structural_mb_per_s": round(statistics.median(speeds), 1),
        "rss_growth_mib": round(max(growths), 1),
        "plan_update_ms": round(plan_ms(), 3),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
