"""What came out of a job is a model: to chat with, to go on from, to list and to delete (C20 to C22, C35)."""

from __future__ import annotations

import uuid
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

from tests.contract.place import BASE, LORA, choices, wait_until

QUESTION: Any = [{"role": "user", "content": "order 5?"}]


def ask(client: OpenAI, model: str | None) -> str:
    assert model is not None
    answer = client.chat.completions.create(model=model, messages=QUESTION, max_tokens=6, temperature=0)
    assert answer.model == model
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    return answer.choices[0].message.content or ""


@pytest.fixture(scope="module")
def continued(client: OpenAI, training_file: str, trained: FineTuningJob) -> FineTuningJob:
    """A job whose base is a checkpoint of another."""
    checkpoint = list(client.fine_tuning.jobs.checkpoints.list(trained.id))[1].fine_tuned_model_checkpoint
    job = client.fine_tuning.jobs.create(
        model=checkpoint, training_file=training_file, method=choices(1, batch_size=16), extra_body=LORA
    )
    job = wait_until(client, job.id)
    ask(client, job.fine_tuned_model)  # the moment it is there
    return job


@pytest.mark.long
def test_c20_a_fine_tuned_model_answers_at_once(client: OpenAI, continued: FineTuningJob) -> None:
    assert continued.status == "succeeded", continued.error
    assert client.models.retrieve(continued.fine_tuned_model or "").id == continued.fine_tuned_model
    ask(client, continued.fine_tuned_model)


@pytest.mark.long
def test_c21_a_checkpoint_is_a_model_and_a_base(
    client: OpenAI, trained: FineTuningJob, continued: FineTuningJob
) -> None:
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(trained.id))
    for checkpoint in checkpoints[1:]:
        ask(client, checkpoint.fine_tuned_model_checkpoint)
    assert continued.model == checkpoints[1].fine_tuned_model_checkpoint
    assert continued.status == "succeeded", continued.error


def test_c22_models_are_listed(client: OpenAI, trained: FineTuningJob) -> None:
    listed = [model.id for model in client.models.list()]
    checkpoints = [each.fine_tuned_model_checkpoint for each in client.fine_tuning.jobs.checkpoints.list(trained.id)]
    assert {BASE, trained.fine_tuned_model, *checkpoints} <= set(listed)
    assert len(listed) == len(set(listed))


def test_c22_an_id_may_hold_a_slash(client: OpenAI, operator: OpenAI) -> None:
    """Some generations of the client write it as %2F, some as it is."""
    name = f"acme/{uuid.uuid4().hex}"
    added: Any = operator.post(
        "/attune/base_models", cast_to=object, body={"id": name, "location": BASE, "source": "folder"}
    )
    assert added["id"] == name
    assert client.models.retrieve(name).id == name
    encoded: Any = client.get(f"/models/{name.replace('/', '%2F')}", cast_to=object)
    assert encoded["id"] == name
    operator.delete(f"/attune/base_models/{name}", cast_to=object)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(name)


@pytest.mark.long
def test_c22_only_an_own_model_is_deleted(client: OpenAI, continued: FineTuningJob) -> None:
    with pytest.raises(openai.PermissionDeniedError):
        client.models.delete(BASE)
    model = continued.fine_tuned_model or ""
    gone = client.models.delete(model)
    assert (gone.id, gone.object, gone.deleted) == (model, "model", True)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(model)
    with pytest.raises(openai.NotFoundError):
        ask(client, model)
    assert model not in [each.id for each in client.models.list()]


def test_c35_usage_comes_last_in_a_stream_when_asked_for(client: OpenAI, trained: FineTuningJob) -> None:
    model = trained.fine_tuned_model or ""
    whole = client.chat.completions.create(model=model, messages=QUESTION, max_tokens=6, temperature=0)
    stream = client.chat.completions.create(
        model=model,
        messages=QUESTION,
        max_tokens=6,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None and len(chunk.choices) == 1 for chunk in chunks[:-1])
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert streamed == whole.choices[0].message.content
    silent = client.chat.completions.create(model=model, messages=QUESTION, max_tokens=2, stream=True)
    assert all(chunk.choices and chunk.usage is None for chunk in silent)
