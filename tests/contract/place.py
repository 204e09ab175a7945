"""What the contract's tests stand on: a service somewhere, a project of their own in it, and the client alone.

Nothing here needs more than Python and the `openai` package, so that any generation of it can run the suite.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from openai import AsyncOpenAI, OpenAI
from openai.types.fine_tuning import FineTuningJob

BASE = "attune-demo"
LORA = {"attune": {"lora": {"rank": 4}}}
ENDED = ("succeeded", "failed", "cancelled")
LIMIT_S = 120.0
_ANSWERS = ("the customer asks", "send it to Berlin", "three blue shirts", "today")


@dataclass(frozen=True)
class Project:
    """A project of its own, and the client that has its key."""

    url: str  # with /v1
    id: str
    key: str

    def client(self, **options: Any) -> OpenAI:
        return OpenAI(base_url=self.url, api_key=self.key, **options)

    def async_client(self, **options: Any) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=self.url, api_key=self.key, **options)


def new_project(url: str, operator_key: str, name: str) -> Project:
    operator = OpenAI(base_url=f"{url}/v1", api_key=operator_key)
    project: Any = operator.post("/attune/projects", cast_to=object, body={"name": name})
    key: Any = operator.post("/attune/keys", cast_to=object, body={"name": name, "project_id": project["id"]})
    return Project(f"{url}/v1", project["id"], key["key"])


def examples(count: int) -> bytes:
    """A training file that a base of random weights learns within a few epochs."""
    rows = [
        [{"role": "user", "content": f"order {n}?"}, {"role": "assistant", "content": _ANSWERS[n % len(_ANSWERS)]}]
        for n in range(count)
    ]
    return "\n".join(json.dumps({"messages": row}) for row in rows).encode()


def upload(client: OpenAI, data: bytes, name: str = "training.jsonl") -> str:
    return client.files.create(file=(name, data), purpose="fine-tune").id


def choices(n_epochs: int | str = "auto", **more: Any) -> Any:
    """`method`, with the hyperparameters of supervised training."""
    return {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": n_epochs, **more}}}


def wait_until(client: OpenAI, job_id: str, *statuses: str) -> FineTuningJob:
    """The job once it is in one of `statuses`, or has ended."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        job = client.fine_tuning.jobs.retrieve(job_id)
        if job.status in statuses or job.status in ENDED:
            return job
        time.sleep(0.1)
    raise TimeoutError(f"job {job_id} is still {job.status} after {LIMIT_S:.0f} s")


def wait_for_step(client: OpenAI, job_id: str, step: int) -> None:
    """Until the job has reported `step`."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        job: Any = client.fine_tuning.jobs.retrieve(job_id).to_dict()
        assert job["status"] not in ENDED, job
        if job["attune"]["progress"]["step"] >= step:
            return
        time.sleep(0.05)
    raise TimeoutError(f"job {job_id} has not reached step {step}")


def raw(answer: Any) -> Any:
    """The JSON as it came over the wire, from what `with_raw_response` returns."""
    return json.loads(answer.text if isinstance(answer.text, str) else answer.text())
