"""One file into two by a seed: the same file, share and seed give the same two, and equal examples stay together."""

from __future__ import annotations

import hashlib
from array import array
from pathlib import Path

import numpy as np

from core.data.example_reader import read_line
from core.doctor.likeness import key_of
from core.doctor.lines import Told, lines_of
from core.doctor.orders import Split
from core.errors import AttuneError


def split(order: Split, told: Told) -> dict[str, object]:
    """Write both files. Raises AttuneError (nothing_left) when one of them would be empty."""
    places = array("Q")
    for number, line in lines_of(order.path, told, "examples", 0.0, 0.5):
        places.append(_place(line, number, order.seed))
    count = round(len(places) * order.validation_share)
    ordered = np.sort(np.frombuffer(places, dtype=np.uint64))
    below = int(ordered[min(max(1, count), len(ordered) - 1)])  # the first place that stays in training
    validation = 0
    with Path(order.training_out).open("wb") as kept, Path(order.validation_out).open("wb") as held:
        for index, (_, line) in enumerate(lines_of(order.path, told, "writing", 0.5, 1.0)):
            is_held = places[index] < below
            validation += is_held
            (held if is_held else kept).write(line.rstrip(b"\r") + b"\n")
    if not validation or validation == len(places):
        raise AttuneError(
            f"Of {len(places)} examples none would be left on one side; give more examples that differ.",
            code="nothing_left",
            param="validation_share",
        )
    return {"training_examples": len(places) - validation, "validation_examples": validation}


def _place(line: bytes, number: int, seed: int) -> int:
    example, _ = read_line(line, number)
    told = line.strip() if example is None else key_of(example).to_bytes(8)
    return int.from_bytes(hashlib.blake2b(told, digest_size=8, key=seed.to_bytes(8)).digest())
