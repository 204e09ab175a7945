"""bench-train itself, on a base of two layers: the trainers take turns, and the gate holds and can fail."""

from __future__ import annotations

import dataclasses
import importlib.util

from tests.bench.train import GATE, Scale, cpu_ratio, gap, ratio, through_the_gate
from tests.bench.train_material import Profile, small

TINY = Scale(
    sizes=[small(2, 128, 2048)],
    chat=Profile("chat", mean=60, spread=0.8, most=256, supervised=0.5, examples_per_step=4),
    constant=Profile("constant", mean=256, spread=0.0, most=256, supervised=1.0, examples_per_step=1),
    gate=Profile("chat", mean=60, spread=0.8, most=256, supervised=0.5, examples_per_step=4),
    gate_steps=8,
    discarded=1,
    chat_steps=2,
    constant_steps=1,
    turns=1,
)


def test_the_trainers_agree_with_the_padded_reference_and_are_measured() -> None:
    names = ["ours"] if importlib.util.find_spec("trl") is None else ["ours", "trl-best"]
    measured = through_the_gate(names, TINY.sizes[0], TINY, threads=1)
    reference = measured["reference"]
    for name, arm in measured.items():
        assert gap(arm, reference) <= GATE, name
        assert ratio(measured["ours"], arm) > 0
        assert cpu_ratio(measured["ours"], arm) > 0
        assert arm.peak_bytes > 0
    assert len(reference.losses) == len(measured["ours"].losses) == TINY.gate_steps
    fall = reference.losses[0] - reference.losses[-1]
    assert fall > 2 * GATE * reference.losses[0], "with so little learnt, the gate would not see a wrong gradient"
    stuck = dataclasses.replace(reference, losses=[reference.losses[0]] * TINY.gate_steps)
    assert gap(stuck, reference) > GATE
