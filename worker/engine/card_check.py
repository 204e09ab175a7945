"""`python -m worker.engine.card_check`: twenty NF4 training steps on a card, held against the CPU's losses.

Needs no model and no network: the base is a small random Llama made here. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from core.spec import LoraSettings, Quantization
from worker.engine.lora import attach
from worker.engine.loss import Head, pack_loss
from worker.engine.model import load_base, resolve_device
from worker.engine.pack import Pack, Segment

STEPS = 20
EXAMPLES = 8  # of a step, packed into one row
TOKENS = 45  # of an example, so that a card's row is filled up to its static shape
VOCABULARY = 512
RATE = 3e-3
SEED = 5
# bfloat16 keeps 8 bits: losses of the two devices part by a few thousandths, and a wrong kernel by much more
TOLERANCE = 0.02


def _base(folder: Path) -> None:
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def _segments(step: int) -> list[Segment]:
    """A pattern that can be learnt: each example counts on from a random token."""
    draw = np.random.default_rng(SEED + step % 4)
    starts = draw.integers(0, VOCABULARY, EXAMPLES)
    mask = np.arange(TOKENS) >= TOKENS // 4
    return [Segment(((start + np.arange(TOKENS)) % VOCABULARY).astype(np.uint32), mask) for start in starts]


def losses(folder: Path, device: str) -> list[float]:
    """The loss of each step, in nats per supervised token."""
    model = load_base(folder, Quantization.NF4, "bfloat16", device)
    modules = attach(model, LoraSettings(rank=8, scale=2.0, dropout=0.0), SEED)
    optimizer = torch.optim.AdamW(modules.parameters(), lr=RATE)
    head = Head(model)
    found: list[float] = []
    for step in range(STEPS):
        pack = Pack.of(_segments(step), resolve_device(device))
        loss, _ = pack_loss(model, head, pack, 1.0 / len(pack.rows))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        found.append(loss.item())
    modules.detach()
    return found


def compare(device: str) -> dict[str, object]:
    """What `device` made of it: name, both curves' ends, the largest relative gap, and whether it may train."""
    with tempfile.TemporaryDirectory() as scratch:
        _base(Path(scratch))
        here = losses(Path(scratch), "cpu")
        there = losses(Path(scratch), device)
    gap = max(abs(a - b) / a for a, b in zip(here, there, strict=True))
    learnt = there[-1] < there[0]
    kind = resolve_device(device)
    return {
        "device": torch.cuda.get_device_name(kind) if kind.type == "cuda" else kind.type,
        "first_loss": there[0],
        "last_loss": there[-1],
        "cpu_last_loss": here[-1],
        "largest_gap": gap,
        "ok": learnt and gap <= TOLERANCE,
    }


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--device", default="cuda:0")
    device: str = options.parse_args().device
    if device.startswith("cuda") and not torch.cuda.is_available():
        print(f"torch {torch.__version__} sees no CUDA device", file=sys.stderr)
        return 1
    print(json.dumps(compare(device)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
