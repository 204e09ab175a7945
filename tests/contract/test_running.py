"""What a job tells while it trains: when it will end, and where its metrics go (C39, C40)."""

from __future__ import annotations

import time
from typing import Any

import pytest
from openai import OpenAI

from tests.contract.place import BASE, LORA, choices, wait_for_step, wait_until

WANDB: Any = {"type": "wandb", "wandb": {"project": "contract", "name": "try", "tags": ["suite"]}}


@pytest.mark.long
def test_c39_an_integration_echoes_its_run(client: OpenAI, training_file: str) -> None:
    job = client.fine_tuning.jobs.create(
        model=BASE, training_file=training_file, method=choices(1, batch_size=16), integrations=[WANDB], extra_body=LORA
    )
    assert job.integrations is not None
    assert job.integrations[0].wandb.project == "contract"
    job = wait_until(client, job.id)
    assert job.status == "succeeded", job.error
    warnings = [event.message for event in client.fine_tuning.jobs.list_events(job.id) if event.level == "warn"]
    assert warnings == []
    assert job.integrations is not None
    (echoed,) = job.integrations
    shown: Any = echoed.to_dict()
    assert shown["type"] == "wandb"
    assert {"project": "contract", "name": "try", "tags": ["suite"]}.items() <= shown["wandb"].items()
    assert shown["wandb"]["run_id"] == job.id
    assert "entity" in shown["wandb"]


@pytest.mark.long
def test_c40_a_running_job_says_when_it_will_end(client: OpenAI, training_file: str) -> None:
    job = client.fine_tuning.jobs.create(
        model=BASE, training_file=training_file, method=choices(50, batch_size=4), extra_body=LORA
    )
    assert job.estimated_finish is None
    wait_for_step(client, job.id, 3)
    deadline = time.monotonic() + 20
    while (running := client.fine_tuning.jobs.retrieve(job.id)).estimated_finish is None:
        assert running.status == "running"
        assert time.monotonic() < deadline, "a running job never told when it will end"
        time.sleep(0.1)
    assert running.status == "running"
    assert time.time() - 2 <= running.estimated_finish <= time.time() + 3600
    client.fine_tuning.jobs.cancel(job.id)
    assert wait_until(client, job.id).estimated_finish is None
