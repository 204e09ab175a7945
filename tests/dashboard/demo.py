"""What the pictures show: a service with jobs over the demo's base, and a spreadsheet that the doctor has much to say
of. What has been made once stays in the data folder and is found there again.
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass

from openai import OpenAI

from tests.live import BASE, Live, wait_for_step, wait_until_ended

TRAINING, VALIDATION, WATCHED = 600, 60, 2  # examples, and of those in the validation file the prompts to watch
ENDED_S = 1800.0
TABLE = "support-inbox.csv"
MESSAGE, TICKET = "What they wrote", "What we file"  # its columns
ROWS = 180
REPAIRS = "mask_personal_data,drop_faulty,drop_too_long,drop_duplicates"
SEEN_STEP = 40  # of the job that is still running
SUCCEEDED, ALIVE = ("succeeded",), ("validating_files", "queued", "running")


@dataclass(frozen=True)
class Demo:
    """Ids: of a job that has succeeded and one that runs, of a model, of files. `question`: in no file."""

    address: str
    job: str
    running: str
    model: str
    question: str
    table: str
    faulty: str
    clean: str


def prepare(live: Live) -> Demo:
    client = live.client()
    with live.http() as http:
        parts = {
            part: http.get(f"/v1/attune/sample_data/{part}", params={"examples": examples}).text
            for part, examples in (("training", TRAINING), ("validation", VALIDATION))
        }
    files = {part: _file(client, f"tickets-{part}.jsonl", lines.encode()) for part, lines in parts.items()}
    questions = [json.loads(line)["messages"][0]["content"] for line in parts["validation"].splitlines()]
    watched = questions[:WATCHED]
    good = _job(client, files, "tickets", 3, SUCCEEDED, sample_prompts=watched)
    small = _job(client, files, "tickets-small", 1, SUCCEEDED, lora={"rank": 4})
    model = wait_until_ended(client, good, ENDED_S).fine_tuned_model
    assert model is not None, "the demo's job failed"
    wait_until_ended(client, small, ENDED_S)
    table = _file(client, TABLE, _table(parts["training"]), purpose="user_data")
    faulty = _converted(live, table)
    _examined(live, faulty, files["validation"])
    running = _job(client, files, "tickets-long", 12, ALIVE, sample_prompts=watched)
    wait_for_step(client, running, SEEN_STEP, ENDED_S)
    return Demo(live.address, good, running, model, questions[WATCHED], table, faulty, files["training"])


def _job(
    client: OpenAI, files: Mapping[str, str], name: str, epochs: int, wanted: tuple[str, ...], **ours: object
) -> str:
    """The job of this name and one of the wanted states in the data folder, or a new one."""
    for job in client.fine_tuning.jobs.list(limit=100):
        if job.status in wanted and job.to_dict()["user_provided_suffix"] == name:
            return job.id
    job = client.fine_tuning.jobs.create(
        model=BASE,
        training_file=files["training"],
        validation_file=files["validation"],
        suffix=name,
        seed=1,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": epochs}}},
        extra_body={"attune": ours},
    )
    return job.id


def _file(client: OpenAI, name: str, content: bytes, *, purpose: str = "fine-tune") -> str:
    for file in client.files.list():
        if file.filename == name:
            return file.id
    return client.files.create(file=(name, content), purpose=purpose).id  # pyright: ignore[reportArgumentType]


def _table(training: str) -> bytes:
    """An export as people have it: rows twice, without an answer, with phone numbers and a whole thread pasted in."""
    turns = [json.loads(line)["messages"] for line in training.splitlines()[:ROWS]]
    rows = [[turn[0]["content"], turn[-1]["content"]] for turn in turns]
    rows[41][0] += " Call me on +49 30 901820 or +49 171 5550199."
    rows[66][0] = f"  {rows[66][0]} "
    rows[90][1] = rows[121][1] = ""
    rows[140][0] = " ".join(message for message, _ in rows[:60])
    rows += rows[4:9]
    file = io.StringIO()
    csv.writer(file).writerows([[MESSAGE, TICKET], *rows])
    return file.getvalue().encode()


def _converted(live: Live, table: str) -> str:
    columns = {"user": MESSAGE, "assistant": TICKET}
    task = _done(live, "conversions", table, {"mapping": {"shape": "chat", "columns": columns}})
    return str(task["result"]["file_id"])


def _examined(live: Live, file: str, validation: str) -> None:
    _done(live, "reports", file, {"model": BASE, "validation_file_id": validation})


def _done(live: Live, route: str, file: str, body: Mapping[str, object]) -> dict[str, dict[str, str]]:
    """The doctor's task of this file, made now if it is not there."""
    with live.http() as http:
        found = http.get(f"/v1/attune/{route}", params={"file_id": file, "limit": 1}).json()["data"]
        task = found[0] if found else http.post(f"/v1/attune/{route}", json={"file_id": file, **body}).json()
        deadline = time.monotonic() + ENDED_S
        while task["status"] not in ("succeeded", "failed"):
            assert time.monotonic() < deadline, f"{route} of {file} did not end"
            time.sleep(0.2)
            task = http.get(f"/v1/attune/{route}/{task['id']}").json()
    assert task["status"] == "succeeded", task
    return task
