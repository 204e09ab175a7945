"""Preference pairs to train on in tests, and the work folder of a dpo run."""

from __future__ import annotations

import json
import random
from pathlib import Path

from core.protocol import TrainTask, WorkFolder
from core.spec import Method
from tests.engine.conftest import MakeWork, conversation

COMPLAINTS = ("cannot say", "ask somebody else, please", "no")


def write_pairs(path: Path, count: int, seed: int) -> None:
    """The better answer is the one in JSON."""
    generator = random.Random(seed)
    lines: list[str] = []
    for _ in range(count):
        ask, answer = conversation(generator)["messages"]
        worse = {"role": "assistant", "content": generator.choice(COMPLAINTS)}
        pair = {"input": {"messages": [ask]}, "preferred_output": [answer], "non_preferred_output": [worse]}
        lines.append(json.dumps(pair) + "\n")
    path.write_text("".join(lines))


def dpo_work(make_work: MakeWork, name: str = "work", *, beta: float = 0.3, **options: object) -> WorkFolder:
    """`make_work`'s folder with pairs in the place of its conversations."""
    work = make_work(name, **options)
    task = TrainTask.model_validate_json(work.task.read_bytes())
    resolved = task.resolved.model_copy(update={"method": Method.DPO, "beta": beta})
    work.task.write_text(task.model_copy(update={"resolved": resolved}).model_dump_json())
    write_pairs(work.training, 18, seed=1)
    write_pairs(work.validation, 6, seed=2)
    return work
