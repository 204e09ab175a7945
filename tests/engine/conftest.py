"""A base made once for all engine tests, and a maker of work folders for small jobs on it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from core.protocol import TrainTask, WorkFolder
from core.spec import Execution, LoraSettings, Quantization, Resolved
from tests.engine.tiny_base import make_base

torch.set_num_threads(1)

MakeWork = Callable[..., WorkFolder]
EXECUTION = Execution(precision="float32", micro_tokens=256, threads=1)
ITEMS, COLOURS, CITIES = ("shirt", "lamp", "sofa", "phone"), ("red", "blue", "green"), ("Berlin", "Rome", "Oslo")


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


def conversation(generator: random.Random) -> dict[str, list[dict[str, str]]]:
    item, colour, city = generator.choice(ITEMS), generator.choice(COLOURS), generator.choice(CITIES)
    count = generator.randint(1, 99)
    ask = f"Please send {count} {colour} {item}s to {city}" + ", thank you" * generator.randint(0, 4)
    answer = json.dumps({"item": item, "count": count, "city": city})
    return {"messages": [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]}


def write_examples(path: Path, count: int, seed: int) -> None:
    generator = random.Random(seed)
    path.write_text("".join(json.dumps(conversation(generator)) + "\n" for _ in range(count)))


@pytest.fixture
def make_work(base_folder: Path, tmp_path: Path) -> MakeWork:
    """Writes a work folder. 18 examples in batches of 4 over 3 epochs: 15 steps, the last of an epoch short."""

    def make(
        name: str = "work",
        *,
        examples: int = 18,
        validation: int = 6,
        epochs: int = 3,
        batch_size: int = 4,
        rank: int = 4,
        scale: float = 2.0,
        dropout: float = 0.1,
        learning_rate: float = 3e-3,
        quantization: Quantization = Quantization.NF4,
        target_modules: tuple[str, ...] | None = None,
        execution: Execution | None = EXECUTION,
        checkpoint_every_steps: int = 6,
        snapshot_interval_s: float = 0.0,
        attempt: int = 1,
        base: Path | None = None,
        **choices: object,  # of Resolved, as they are
    ) -> WorkFolder:
        work = WorkFolder(tmp_path / name)
        work.root.mkdir(parents=True)
        write_examples(work.training, examples, seed=1)
        if validation:
            write_examples(work.validation, validation, seed=2)
        lora = LoraSettings(rank=rank, scale=scale, dropout=dropout, target_modules=target_modules or "all-linear")
        resolved = Resolved(
            n_epochs=epochs,
            batch_size=batch_size,
            learning_rate_multiplier=1.0,
            learning_rate=learning_rate,
            lora=lora,
            quantization=quantization,
            max_example_tokens=256,
            warmup_steps=2,
            total_steps=epochs * -(-examples // batch_size),
            max_grad_norm=1.0,
            weight_decay=0.01,
            validation_every_steps=2,
            checkpoint_every_steps=checkpoint_every_steps,
        ).model_copy(update=choices)
        task = TrainTask(
            job_id="ftjob-test",
            attempt=attempt,
            base_model="tiny",
            base_revision="revision-1",
            base_folder=str(base or base_folder),
            resolved=resolved,
            seed=11,
            execution=execution,
            template_date="2026-01-01",
            snapshot_interval_s=snapshot_interval_s,
            device="cpu",
        )
        work.task.write_text(task.model_dump_json())
        return work

    return make
