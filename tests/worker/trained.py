"""A small adapter that the engine really trained, in a work folder as the runner leaves it for the proof."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from core.protocol import Trained, TrainTask, WorkFolder
from core.spec import Execution, LoraSettings, Quantization, Resolved
from tests.engine.tiny_base import CHATML, make_base
from worker.engine.resident import Resident
from worker.engine.train import train

QUESTIONS = {
    "who asks for a refund?": "the customer asks",
    "where to?": "send it to Berlin",
    "how much?": "three blue shirts",
    "when?": "today",
    "which colour?": "blue",
    "what order?": "order 1234",
    "which city?": "Berlin, express",
    "what item?": '{"item": "shirt"}',
}


@dataclass(frozen=True)
class TrainedJob:
    """`folder.published` holds the adapter as it would come back from storage."""

    base: Path
    folder: WorkFolder
    resident: Resident
    trained: Trained
    task: TrainTask

    def copy(self, root: Path) -> WorkFolder:
        """The same work folder again, to be spoilt."""
        shutil.copytree(self.folder.root, root)
        return WorkFolder(root)


def conversation(question: str, answer: str) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def train_job(
    root: Path,
    *,
    steps: int = 40,
    rows: Sequence[dict[str, object]] = (),
    chat_template: str = CHATML,
    learning_rate: float = 5e-3,
) -> TrainedJob:
    """Make a base below `root` and train an adapter on `rows`, or QUESTIONS; about two seconds on one core."""
    base = make_base(root / "base", chat_template=chat_template)
    folder = WorkFolder(root / "work")
    folder.root.mkdir()
    lines = [json.dumps(row) for row in rows or [conversation(*pair) for pair in QUESTIONS.items()]]
    folder.training.write_text("\n".join(lines) + "\n")
    resolved = Resolved(
        n_epochs=steps,
        batch_size=len(lines),
        learning_rate_multiplier=1.0,
        learning_rate=learning_rate,
        lora=LoraSettings(rank=8, scale=2.0, dropout=0.0),
        quantization=Quantization.NF4,
        max_example_tokens=384,
        warmup_steps=2,
        total_steps=steps,
        max_grad_norm=1.0,
        weight_decay=0.0,
        validation_every_steps=steps,
        checkpoint_every_steps=steps,
    )
    task = TrainTask(
        job_id="ftjob-test",
        attempt=1,
        base_model="tiny",
        base_revision="r1",
        base_folder=str(base),
        resolved=resolved,
        seed=3,
        execution=Execution(precision="float32", micro_tokens=1024, threads=1),
        template_date="2026-01-01",
        device="cpu",
    )
    folder.task.write_text(task.model_dump_json())
    reports: list[BaseModel] = []
    resident = Resident()
    train(resident, folder, reports.append, threading.Event(), 1)
    trained = reports[-1]
    assert isinstance(trained, Trained)
    (folder.root / "trained.json").write_text(trained.model_dump_json())
    shutil.copytree(folder.adapter, folder.published)
    return TrainedJob(base, folder, resident, trained, task)
