"""Every endpoint under the client's own strict validation of answers, which users have switched off (C37).

A paused job is not looked at here: OpenAI answers "paused" too, and the client's own list of statuses lacks it.
"""

from __future__ import annotations

import asyncio
import inspect
import warnings
from collections.abc import AsyncIterator
from typing import Any, Literal

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.fine_tuning import FineTuningJob
from pydantic import BaseModel

from tests.contract.place import BASE, Project, examples, new_project

STRICT = {"_strict_response_validation": True}
CHAT: Any = {"messages": [{"role": "user", "content": "order 5?"}], "max_tokens": 4}
# by chance, since the likeliest continuation of a random base may be blanks without end
TICKET: Any = {"messages": CHAT["messages"], "max_tokens": 200, "temperature": 2, "seed": 1}


class Ticket(BaseModel):
    """An answer that cannot run on for ever."""

    kind: Literal["order", "refund"]


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


@pytest.fixture
def neighbour(service: tuple[str, str]) -> Project:
    return new_project(*service, "neighbour")


@pytest.mark.parametrize("kind", [OpenAI, AsyncOpenAI])
def test_c37_the_further_endpoints_are_well_formed_too(
    kind: Any, project: Project, neighbour: Project, service: tuple[str, str], trained: FineTuningJob
) -> None:
    """As an operator in the project: sharing is not in the scopes of its own key."""
    model = trained.fine_tuned_model or ""
    client = kind(base_url=project.url, api_key=service[1], project=project.id, **STRICT)
    asyncio.run(walk_further(client, model, neighbour.id))


async def walk_further(client: Any, model: str, neighbour_id: str) -> None:
    data = examples(12)
    begun: Any = {"filename": "a.jsonl", "purpose": "fine-tune", "bytes": len(data), "mime_type": "text/jsonl"}
    upload = await told(client.uploads.create(**begun))
    part = await told(client.uploads.parts.create(upload.id, data=data))
    assert (await told(client.uploads.complete(upload.id, part_ids=[part.id]))).file.status == "processed"
    other = await told(client.uploads.create(**begun))
    assert (await told(client.uploads.cancel(other.id))).status == "cancelled"

    permissions = client.fine_tuning.checkpoints.permissions
    given = [each async for each in listed(permissions.create(model, project_ids=[neighbour_id]))]
    assert [permission.project_id for permission in given] == [neighbour_id]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        assert (await told(permissions.retrieve(model))).data[0].id == given[0].id
    if hasattr(permissions, "list"):
        assert [each.id async for each in listed(permissions.list(model))] == [given[0].id]
    assert (await told(permissions.delete(given[0].id, fine_tuned_model_checkpoint=model))).deleted

    graders = client.fine_tuning.alpha.graders
    grader = {"type": "string_check", "name": "same", "input": "{{ sample.output_text }}", "reference": "a",
              "operation": "eq"}  # fmt: skip
    assert (await told(graders.validate(grader=grader))).grader.name == "same"
    assert (await told(graders.run(grader=grader, model_sample="a", item={}))).reward == 1.0

    written = await told(client.completions.create(model=model, prompt="order", max_tokens=3, logprobs=2))
    assert written.choices[0].logprobs.tokens
    assert written.usage.completion_tokens <= 3
    parsed = await told(client.chat.completions.parse(model=model, response_format=Ticket, **TICKET))
    assert parsed.choices[0].message.parsed is not None
    if hasattr(client.chat.completions, "list"):
        assert [each async for each in listed(client.chat.completions.list())] == []
        with pytest.raises(openai.NotFoundError):
            await told(client.chat.completions.retrieve("chatcmpl-none"))
    with pytest.raises(openai.BadRequestError, match="no embedding models"):
        await told(client.embeddings.create(model=model, input="a"))

    if hasattr(client.webhooks, "create"):
        hook = await told(client.webhooks.create(
            name="strict", url="https://example.com/hook", event_types=["fine_tuning.job.succeeded"]
        ))  # fmt: skip
        assert hook.id in [each.id async for each in listed(client.webhooks.list())]
        assert (await told(client.webhooks.rotate_secret(hook.id))).signing_secret
        assert (await told(client.webhooks.update(hook.id, name="renamed"))).name == "renamed"
        assert (await told(client.webhooks.event_types.list())).data
        assert (await told(client.webhooks.delete(hook.id))).deleted


async def told(answer: Any) -> Any:
    """What a call of either client answers."""
    return await answer if inspect.isawaitable(answer) else answer


async def listed(page: Any) -> AsyncIterator[Any]:
    """Every item of every page, from either client."""
    if hasattr(page, "__aiter__"):
        async for item in page:
            yield item
    else:
        for item in await told(page):
            yield item
