"""What a user's own program would do: upload, train, ask, download. It uses the official `openai` package alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import httpx
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

ANSWER_TOKENS = 64  # the longest ticket has about 40
ASKERS = 4  # questions on their way at once


@dataclass(frozen=True)
class Question:
    """A message that no file held, and the only answer that counts."""

    message: str
    ticket: str


def jsonl(questions: Iterable[Question]) -> bytes:
    """Solved questions as chat examples, one a line."""
    rows = (
        {"messages": [{"role": "user", "content": one.message}, {"role": "assistant", "content": one.ticket}]}
        for one in questions
    )
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def upload(client: OpenAI, path: Path) -> str:
    """The id of the File that the service has made of it."""
    return client.files.create(file=path, purpose="fine-tune").id


def create_job(client: OpenAI, base: str, training: str, validation: str, seed: int) -> FineTuningJob:
    """All that is not named here is "auto": the service chooses, and says why."""
    return client.fine_tuning.jobs.create(
        model=base,
        training_file=training,
        validation_file=validation,
        seed=seed,
        suffix="tickets",
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3, "batch_size": 8}}},
        extra_body={"attune": {"lora": {"rank": 16}}},
    )


def ask(client: OpenAI, model: str, questions: Sequence[Question], said: Callable[[], None]) -> list[str]:
    """The model's answers in the order of the questions; `said` is called after each."""

    def answer(question: Question) -> str:
        completion = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": question.message}],
            max_tokens=ANSWER_TOKENS,
            temperature=0,
        )
        said()
        return completion.choices[0].message.content or ""

    with ThreadPoolExecutor(ASKERS) as pool:
        return list(pool.map(answer, questions))


def exact(questions: Sequence[Question], answers: Sequence[str]) -> float:
    """Fraction of answers that are the ticket, character for character."""
    return sum(one.ticket == answer for one, answer in zip(questions, answers, strict=True)) / len(questions)


def download(client: OpenAI, model: str, folder: Path) -> int:
    """Fetch the adapter's zip and unpack it into `folder`; the zip's size in bytes."""
    archive = client.get(f"/attune/models/{model}/download", cast_to=httpx.Response).content
    with ZipFile(BytesIO(archive)) as bundle:
        bundle.extractall(folder)
    return len(archive)
