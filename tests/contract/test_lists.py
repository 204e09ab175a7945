"""Pages, events and checkpoints (C12 to C14)."""

from __future__ import annotations

import asyncio

import openai
import pytest
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

from tests.contract.place import BASE, Project, examples, raw, upload


@pytest.fixture
def four(fresh: Project) -> list[str]:
    """Four jobs, newest first, in a project of their own."""
    client = fresh.client()
    training_file = upload(client, examples(10))
    made = []
    for _ in range(4):
        made.append(client.fine_tuning.jobs.create(model=BASE, training_file=training_file).id)
        client.fine_tuning.jobs.cancel(made[-1])
    return made[::-1]


def test_c12_pages_of_jobs_are_exact_at_their_ends(fresh: Project, four: list[str], trained: FineTuningJob) -> None:
    client = fresh.client()
    first = client.fine_tuning.jobs.list(limit=2)
    assert ([job.id for job in first.data], first.has_more) == (four[:2], True)
    second = client.fine_tuning.jobs.list(limit=2, after=four[1])
    assert ([job.id for job in second.data], second.has_more) == (four[2:], False)
    assert client.fine_tuning.jobs.list(limit=4).has_more is False
    assert client.fine_tuning.jobs.list(limit=3).has_more is True
    last = client.fine_tuning.jobs.list(after=four[-1])
    assert (last.data, last.has_more) == ([], False)
    assert [job.id for job in client.fine_tuning.jobs.list(limit=1)] == four
    with pytest.raises(openai.BadRequestError, match="with id ftjob-none"):
        client.fine_tuning.jobs.list(after="ftjob-none")
    with pytest.raises((openai.BadRequestError, openai.NotFoundError)):
        client.fine_tuning.jobs.list(after=trained.id)  # of another project


def test_c12_the_async_client_turns_pages_too(fresh: Project, four: list[str]) -> None:
    async def collect() -> list[str]:
        async with fresh.async_client() as client:
            return [job.id async for job in client.fine_tuning.jobs.list(limit=3)]

    assert asyncio.run(collect()) == four


def test_c12_pages_of_files(fresh: Project) -> None:
    client = fresh.client()
    made = [upload(client, examples(10), f"{n}.jsonl") for n in range(3)][::-1]
    page = client.files.list(limit=2)
    assert ([file.id for file in page.data], page.has_more) == (made[:2], True)
    assert [file.id for file in client.files.list(limit=1)] == made
    assert [file.id for file in client.files.list(order="asc", limit=2)] == made[::-1]
    assert [file.id for file in client.files.list(purpose="batch")] == []
    shown = raw(client.files.with_raw_response.list(limit=2))
    assert (shown["first_id"], shown["last_id"]) == (made[0], made[1])


def test_c13_events_are_told_once_each_and_in_order(client: OpenAI, trained: FineTuningJob) -> None:
    events = list(client.fine_tuning.jobs.list_events(trained.id, limit=7))
    assert len({event.id for event in events}) == len(events)
    times = [event.created_at for event in events]
    assert times == sorted(times, reverse=True)
    oldest_first = events[::-1]
    assert oldest_first[0].message == f"Created fine-tuning job: {trained.id}"
    assert oldest_first[-1].message == "The job has successfully completed"
    steps = [event.data["step"] for event in oldest_first if event.type == "metrics"]  # type: ignore[index]
    assert steps == list(range(1, 25))
    assert {"step", "train_loss", "total_steps"} <= next(e.data for e in events if e.type == "metrics").keys()  # type: ignore[union-attr]
    again = [event.id for event in client.fine_tuning.jobs.list_events(trained.id, limit=100)]
    assert again == [event.id for event in events]
    # a poller that knows the newest of yesterday asks until it meets it
    page = client.fine_tuning.jobs.list_events(trained.id, after=events[2].id, limit=3)
    assert [event.id for event in page.data] == again[3:6]


def test_c14_checkpoints(client: OpenAI, trained: FineTuningJob) -> None:
    shown = raw(client.fine_tuning.jobs.checkpoints.with_raw_response.list(trained.id))
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(trained.id, limit=2))
    assert [checkpoint.step_number for checkpoint in checkpoints] == [24, 16, 8]
    assert (shown["first_id"], shown["last_id"], shown["has_more"]) == (checkpoints[0].id, checkpoints[-1].id, False)
    assert checkpoints[0].fine_tuned_model_checkpoint == trained.fine_tuned_model
    assert checkpoints[1].fine_tuned_model_checkpoint.endswith(":ckpt-step-16")
    assert checkpoints[0].fine_tuning_job_id == trained.id
    metrics = checkpoints[0].metrics
    assert metrics.step == 24
    assert metrics.train_loss
    assert metrics.full_valid_loss
