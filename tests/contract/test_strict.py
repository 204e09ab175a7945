"""Every endpoint under the client's own strict validation of answers, which users have switched off (C37).

A paused job is not looked at here: OpenAI answers "paused" too, and the client's own list of statuses lacks it.
"""

from __future__ import annotations

import asyncio
from typing import Any

from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

from tests.contract.place import BASE, Project, examples

STRICT = {"_strict_response_validation": True}
CHAT: Any = {"messages": [{"role": "user", "content": "order 5?"}], "max_tokens": 4}


def test_c37_the_sync_client_finds_every_answer_well_formed(project: Project, trained: FineTuningJob) -> None:
    client: OpenAI = project.client(**STRICT)
    file = client.files.create(file=("a.jsonl", examples(12)), purpose="fine-tune")
    assert client.files.wait_for_processing(file.id, poll_interval=0.1).status == "processed"
    broken = client.files.create(file=("b.jsonl", b'{"messages": []}\n' * 10), purpose="fine-tune")
    assert client.files.wait_for_processing(broken.id, poll_interval=0.1).status == "error"
    assert client.files.retrieve(file.id).filename == "a.jsonl"
    assert client.files.content(file.id).read() == examples(12)
    assert file.id in [each.id for each in client.files.list()]

    job = client.fine_tuning.jobs.create(model=BASE, training_file=file.id)
    assert client.fine_tuning.jobs.retrieve(job.id).id == job.id
    assert client.fine_tuning.jobs.cancel(job.id).id == job.id
    assert job.id in [each.id for each in client.fine_tuning.jobs.list()]
    assert client.fine_tuning.jobs.retrieve(trained.id).status == "succeeded"
    assert list(client.fine_tuning.jobs.list_events(trained.id))
    assert list(client.fine_tuning.jobs.checkpoints.list(trained.id))
    assert client.files.retrieve(trained.result_files[0]).purpose == "fine-tune-results"

    model = trained.fine_tuned_model or ""
    assert client.models.retrieve(model).owned_by
    assert model in [each.id for each in client.models.list()]
    assert client.chat.completions.create(model=model, **CHAT).usage
    assert list(client.chat.completions.create(model=model, stream=True, **CHAT))
    extra = project.client().fine_tuning.jobs.checkpoints.list(trained.id).data[-1].fine_tuned_model_checkpoint
    assert client.models.retrieve(extra).id == extra
    assert client.files.delete(broken.id).deleted


def test_c37_the_async_client_finds_every_answer_well_formed(project: Project, trained: FineTuningJob) -> None:
    async def walk() -> None:
        async with project.async_client(**STRICT) as client:
            file = await client.files.create(file=("a.jsonl", examples(12)), purpose="fine-tune")
            assert (await client.files.wait_for_processing(file.id, poll_interval=0.1)).status == "processed"
            assert (await client.files.content(file.id)).read() == examples(12)
            assert file.id in [each.id async for each in client.files.list()]
            job = await client.fine_tuning.jobs.create(model=BASE, training_file=file.id)
            assert (await client.fine_tuning.jobs.cancel(job.id)).id == job.id
            assert (await client.fine_tuning.jobs.retrieve(job.id)).id == job.id
            assert job.id in [each.id async for each in client.fine_tuning.jobs.list()]
            assert [event async for event in client.fine_tuning.jobs.list_events(trained.id)]
            assert [each async for each in client.fine_tuning.jobs.checkpoints.list(trained.id)]
            model = trained.fine_tuned_model or ""
            assert (await client.models.retrieve(model)).id == model
            assert model in [each.id async for each in client.models.list()]
            answer = await client.fine_tuning.jobs.with_raw_response.retrieve(trained.id)
            assert answer.headers["x-request-id"]
            assert (await client.chat.completions.create(model=model, **CHAT)).usage
            assert [chunk async for chunk in await client.chat.completions.create(model=model, stream=True, **CHAT)]

    asyncio.run(walk())
