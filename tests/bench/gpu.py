"""`make bench-gpu`: the engine on this GPU, in one command of under ten minutes and without a network.

First it is held against the CPU path; then bases of 1 B, 3 B and 8 B parameters, their weights drawn on the device,
are trained by it and by the peers that are installed. Without a GPU it says so and measures nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from tests.bench.train import Arm, prepare
from tests.bench.train_material import Profile, Size, small
from worker.engine.card_check import compare

BUDGET_S = 540.0  # after it no further trainer is started
DISCARDED, TURNS, STEPS = 2, 3, 2  # optimizer steps before the first timed one, turns, steps of a turn
# Llama 3's shapes, https://huggingface.co/meta-llama; 8 B first, since time may end the list
SIZES = [
    Size("8B", 32, 4096, 14336, 32, 8, 128256),
    Size("1B", 16, 2048, 8192, 32, 8, 128256, tied=True),
    Size("3B", 28, 3072, 8192, 24, 8, 128256, tied=True),
]
TINY = [small(2, 128, 2048)]
CONSTANT = Profile("constant", mean=2048, spread=0.0, most=2048, supervised=1.0, examples_per_step=8)
CHAT = Profile("chat", mean=180, spread=0.8, most=2048, supervised=0.5, examples_per_step=64)
TINY_CONSTANT = Profile("constant", mean=128, spread=0.0, most=128, supervised=1.0, examples_per_step=4)
PEERS = {  # arm: the packages that it needs
    "trl-gpu": ["trl"],
    "unsloth": ["unsloth", "trl"],
    "trl-gpu-liger": ["trl", "liger_kernel"],
    "trl-gpu-checkpoints": ["trl"],
}


@dataclass(frozen=True)
class Row:
    size: str
    profile: str
    arm: str
    tokens_per_s: float | None  # real tokens, padding not counted; None: it did not run
    peak_gib: float | None
    share: float | None  # of the roofline
    note: str = ""


def peak_flops(device: str) -> float:
    """What this card reaches in one large bfloat16 product, FLOP/s: the roofline's height."""
    side = 8192 if device == "cuda" else 512
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))

    def seconds() -> float:
        begun = time.perf_counter()
        for _ in range(10):
            a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - begun) / 10

    seconds()
    return 2 * side**3 / min(seconds() for _ in range(3))


def flops_per_token(size: Size, profile: Profile, lengths: list[int]) -> float:
    """Forward and backward to the input through frozen weights: 4 per parameter of linears, and of the head on
    supervised tokens; causal attention sees half of its segment, and its backward costs 2.5 times its forward."""
    head = 4 * size.vocabulary * size.hidden * profile.supervised
    seen = sum(length**2 for length in lengths) / sum(lengths) / 2
    attention = 3.5 * 4 * seen * size.hidden * size.layers
    return 4 * size.linear_parameters + head + attention


def measure(root: Path, arm_name: str, size: Size, profile: Profile, peak: float) -> Row:
    """Train a few steps in a process of its own; what makes it fail becomes the row's note."""
    arm = Arm(arm_name, root, threads=8)
    tokens = profile.lengths((DISCARDED + TURNS * STEPS + 1) * profile.examples_per_step)
    try:
        arm.steps(DISCARDED)
        rates: list[float] = []
        peak_bytes = 0
        per_step = sum(tokens) / len(tokens) * profile.examples_per_step
        for _ in range(TURNS):
            answer = arm.steps(STEPS)
            rates.append(STEPS * per_step / answer["seconds"])
            peak_bytes = answer["peak_bytes"]
    except RuntimeError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        return Row(size.name, profile.name, arm_name, None, None, None, lines[-1][:100])
    finally:
        arm.end()
    rate = statistics.median(rates)
    share = rate * flops_per_token(size, profile, tokens) / peak
    return Row(size.name, profile.name, arm_name, rate, peak_bytes / 2**30, share)


def rows(sizes: list[Size], profiles: list[Profile], device: str, peak: float, begun: float) -> Iterator[Row]:
    """Every trainer on every shape, the most telling first, until the time is over."""
    for size in sizes:
        for profile in profiles:
            with tempfile.TemporaryDirectory(prefix="attune-bench-", dir=_roomy()) as folder:
                root = Path(folder)
                steps = DISCARDED + TURNS * STEPS + 1
                for arm, needs in {"ours": [], **PEERS}.items():
                    missing = [name for name in needs if importlib.util.find_spec(name) is None]
                    if missing:
                        note = f"not installed: {', '.join(missing)}"
                    elif time.monotonic() - begun > BUDGET_S:
                        note = "not run: the time was over"
                    else:
                        if not (root / "base").exists():
                            prepare(root, size, profile, steps, device)
                        yield measure(root, arm, size, profile, peak)
                        continue
                    yield Row(size.name, profile.name, arm, None, None, None, note)


def _roomy() -> str | None:
    """Memory where there is a file system in it: the largest base is 16 GB, and every trainer reads it."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def show(console: Console, found: list[Row], peak: float) -> None:
    table = Table(title=f"QLoRA r = 16 on all linears; roofline {peak / 1e12:.0f} TFLOP/s, measured")
    for heading in ("base", "lengths", "trainer", "tokens/s", "peak GiB", "of the roofline", ""):
        table.add_column(heading)
    for row in found:
        figures = ["", "", ""]
        if row.tokens_per_s is not None and row.peak_gib is not None and row.share is not None:
            figures = [f"{row.tokens_per_s:,.0f}", f"{row.peak_gib:.1f}", f"{row.share:.0%}"]
        table.add_row(row.size, row.profile, row.arm, *figures, row.note)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rehearse", action="store_true", help="the same path on the CPU with a tiny shape")
    rehearse: bool = parser.parse_args().rehearse
    console = Console(width=120)
    begun = time.monotonic()
    if not (rehearse or torch.cuda.is_available()):
        print(f"Not measured: torch {torch.__version__} sees no GPU on this machine.")
        print("`python -m tests.bench.gpu --rehearse` walks the same path on the CPU with a tiny shape.")
        print(json.dumps({"gpu": None, "measured": False}))
        return
    device = "cpu" if rehearse else "cuda"
    check = compare(device)
    gap = check["largest_gap"]
    console.print(f"{check['device']}: the losses of 20 steps are within {gap:.2%} of the CPU's")
    figures: dict[str, object] = {
        "gpu": None if rehearse else check["device"],
        "measured": not rehearse,
        "torch": torch.__version__,
    }
    figures |= {"correct": check["ok"], "loss_gap_to_cpu": gap}
    if check["ok"]:
        peak = peak_flops(device)
        sizes, profiles = (TINY, [TINY_CONSTANT]) if rehearse else (SIZES, [CONSTANT, CHAT])
        found = list(rows(sizes, profiles, device, peak, begun))
        show(console, found, peak)
        figures["roofline_tflops"] = round(peak / 1e12, 1)
        for row in found:
            if row.tokens_per_s is not None:
                key = f"{row.size} {row.profile} {row.arm}"
                figures[key] = {"tokens_per_s": round(row.tokens_per_s), "peak_gib": row.peak_gib, "share": row.share}
    figures["seconds"] = round(time.monotonic() - begun)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
