"""100 MB of JSONL structurally checked: speed and growth of a process that does nothing else.

`python -m tests.bench.structural FILE` is that process. What one core does is told by processor seconds, which another
process on it does not lengthen.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from core.data.examples import Checker

ROOT = Path(__file__).parent.parent.parent
MB = 1_000_000
MIB = 1024 * 1024
READ_BYTES = 1024 * 1024
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


@dataclass(frozen=True)
class Run:
    seconds: float
    cpu_s: float
    growth_bytes: int  # of the resident memory, from the first byte read on
    examples: int


def check(path: Path) -> Run:
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
    run = Run(time.perf_counter() - wall, time.process_time() - cpu, peak_bytes - idle_bytes, summary.examples)
    assert summary.error_count == 0, summary.findings
    return run


def check_apart(path: Path) -> Run:
    """In a process of its own."""
    command = [sys.executable, "-m", "tests.bench.structural", str(path)]
    answer = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return Run(**json.loads(answer.stdout))


if __name__ == "__main__":
    print(json.dumps(check(Path(sys.argv[1])).__dict__))
