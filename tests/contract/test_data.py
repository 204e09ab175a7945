"""What stands in a training file: preference pairs, tool calls, weights (C30 to C32)."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

from tests.contract.place import BASE, LORA, choices, examples, upload, wait_until

CITIES = ["Berlin", "Oslo", "Rome"]
FIND: Any = {
    "type": "function",
    "function": {
        "name": "find",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": CITIES}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def pairs(spelling: str) -> bytes:
    """`spelling`: of preferred_… and non_preferred_…"""
    rows = [
        {
            "input": {"messages": [{"role": "user", "content": f"order {number}?"}]},
            f"preferred_{spelling}": [{"role": "assistant", "content": "today"}],
            f"non_preferred_{spelling}": [{"role": "assistant", "content": f"cannot say {number}"}],
        }
        for number in range(12)
    ]
    return "\n".join(map(json.dumps, rows)).encode()


def calls(*, as_text: bool) -> bytes:
    """Conversations with a tool call whose arguments are JSON's text, as OpenAI has them, or the object itself."""
    rows: list[Any] = []
    for number in range(12):
        arguments: Any = {"city": CITIES[number % 3]}
        function = {"name": "find", "arguments": json.dumps(arguments) if as_text else arguments}
        call = {"id": "call_1", "type": "function", "function": function}
        asked = {"role": "user", "content": f"where is order {number}?"}
        rows.append({"messages": [asked, {"role": "assistant", "tool_calls": [call]}], "tools": [FIND]})
    return "\n".join(map(json.dumps, rows)).encode()


def trained_on(client: OpenAI, data: bytes, method: Any) -> tuple[FineTuningJob, str]:
    """The job, and the hash of its adapter: equal data in equal order give equal adapters."""
    job = client.fine_tuning.jobs.create(
        model=BASE, training_file=upload(client, data), method=method, seed=5, extra_body=LORA
    )
    job = wait_until(client, job.id)
    assert job.status == "succeeded", job.error
    model: Any = client.models.retrieve(job.fine_tuned_model or "").to_dict()
    return job, model["attune"]["adapter_sha256"]


@pytest.mark.long
def test_c30_both_spellings_of_pairs_train_the_same_adapter(client: OpenAI) -> None:
    method = {"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 1, "batch_size": 4, "beta": 0.2}}}
    newer, newer_hash = trained_on(client, pairs("output"), method)
    _, older_hash = trained_on(client, pairs("completion"), method)
    assert newer_hash == older_hash
    assert newer.method is not None
    assert newer.method.type == "dpo"
    assert newer.method.to_dict()["dpo"]["hyperparameters"]["beta"] == 0.2  # type: ignore[index]


def test_c30_a_file_of_another_kind_is_refused_for_the_method(client: OpenAI) -> None:
    chats, preferences = upload(client, examples(12)), upload(client, pairs("output"))
    for file_id, method, other in ((chats, "dpo", "supervised"), (preferences, "supervised", "dpo")):
        with pytest.raises(openai.BadRequestError, match=f"the method .*{other}") as refused:
            client.fine_tuning.jobs.create(model=BASE, training_file=file_id, method={"type": method})  # type: ignore[typeddict-item]
        assert (refused.value.code, refused.value.param) == ("wrong_method", "training_file")


@pytest.mark.long
def test_c31_arguments_may_be_text_or_an_object(client: OpenAI) -> None:
    method = choices(6, batch_size=2)
    _, of_text = trained_on(client, calls(as_text=True), method)
    job, of_objects = trained_on(client, calls(as_text=False), method)
    assert of_text == of_objects
    asked: Any = [{"role": "user", "content": "where is order 5?"}]
    answer: Any = client.chat.completions.create(
        model=job.fine_tuned_model or "", messages=asked, tools=[FIND], tool_choice="required",
        parallel_tool_calls=False, max_tokens=120, temperature=0,
    )  # fmt: skip
    message = answer.choices[0].message
    (call,) = message.tool_calls
    assert isinstance(call.function.arguments, str)
    assert call.function.name == "find"
    # and the conversation goes on, in either form
    for arguments in (call.function.arguments, {"city": "Oslo"}):
        said: Any = {"role": "assistant", "tool_calls": [{**call.to_dict(), "function": {"name": "find"}}]}
        said["tool_calls"][0]["function"]["arguments"] = arguments
        result: Any = {"role": "tool", "tool_call_id": call.id, "content": "on its way"}
        went_on = client.chat.completions.create(
            model=BASE, messages=[*asked, said, result], tools=[FIND], max_tokens=2
        )
        assert went_on.usage is not None
        assert went_on.usage.prompt_tokens > answer.usage.prompt_tokens


def supervised_tokens(client: OpenAI, weights: tuple[int, int]) -> int:
    """Of a job on conversations of two answers with these weights."""
    answers = ("send it to Berlin", "today")
    messages: list[Any] = []
    for answer, weight in zip(answers, weights, strict=True):
        messages += [{"role": "user", "content": "and?"}, {"role": "assistant", "content": answer, "weight": weight}]
    data = "\n".join([json.dumps({"messages": messages})] * 12).encode()
    job = client.fine_tuning.jobs.create(model=BASE, training_file=upload(client, data))
    shown: Any = wait_until(client, job.id, "queued", "running").to_dict()
    if shown["status"] not in ("succeeded", "failed"):
        client.fine_tuning.jobs.cancel(job.id)
    assert shown["status"] in ("queued", "running", "succeeded"), shown["error"]
    return shown["attune"]["plan"]["supervised_tokens"]


def test_c32_a_weight_of_0_is_not_learned(client: OpenAI) -> None:
    both = supervised_tokens(client, (1, 1))
    first, last = supervised_tokens(client, (1, 0)), supervised_tokens(client, (0, 1))
    assert 0 < last < first < both == first + last


def test_c32_weights_are_0_or_1_and_not_all_0(client: OpenAI) -> None:
    def row(weight: float) -> bytes:
        said = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "a", "weight": weight}]
        return "\n".join([json.dumps({"messages": said})] * 12).encode()

    half = client.files.create(file=("half.jsonl", row(0.5)), purpose="fine-tune")
    assert half.status == "error"
    assert "weight" in (half.status_details or "")
    none = client.files.create(file=("none.jsonl", row(0)), purpose="fine-tune")
    assert none.status == "error"
    assert "weight 1" in (none.status_details or "")
