"""Chats: what a stream looks like on the wire, log-probabilities, usage (C33 to C35)."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

from tests.contract.place import Project

ASKED: Any = {"messages": [{"role": "user", "content": "order 5?"}], "max_tokens": 6, "temperature": 0}


def stream_lines(client: OpenAI, **more: Any) -> tuple[str, list[str]]:
    """(content type, lines as they came)"""
    with client.chat.completions.with_streaming_response.create(stream=True, **ASKED, **more) as answer:
        return answer.headers["content-type"], list(answer.iter_lines())


def test_c33_the_stream_is_openais_to_the_letter(client: OpenAI, trained: FineTuningJob) -> None:
    model = trained.fine_tuned_model or ""
    whole = client.chat.completions.create(model=model, **ASKED)
    kind, lines = stream_lines(client, model=model)
    assert kind.startswith("text/event-stream")
    assert lines[1::2] == [""] * (len(lines) // 2), "each event is one data line and an empty one"
    events = [line for line in lines if line]
    assert all(line.startswith("data: ") for line in events)
    assert events[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in events[:-1]]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert {chunk["model"] for chunk in chunks} == {model}
    assert len({(chunk["id"], chunk["created"], chunk["system_fingerprint"]) for chunk in chunks}) == 1
    assert all("usage" not in chunk for chunk in chunks)
    firsts = [chunk["choices"][0] for chunk in chunks]
    assert firsts[0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert [each["finish_reason"] for each in firsts] == [None] * (len(firsts) - 1) + [whole.choices[0].finish_reason]
    assert firsts[-1]["delta"] == {}
    said = "".join(each["delta"].get("content", "") for each in firsts)
    assert said == whole.choices[0].message.content


def test_c33_the_clients_own_helper_reads_it(client: OpenAI, project: Project, trained: FineTuningJob) -> None:
    model = trained.fine_tuned_model or ""
    # the helper wants an answer that ended by itself
    ending: Any = {**ASKED, "max_tokens": 60, "stop": ["e", "o", "t", " "]}
    said = client.chat.completions.create(model=model, **ending).choices[0].message.content
    with client.chat.completions.stream(model=model, **ending) as stream:
        assert stream.get_final_completion().choices[0].message.content == said

    async def listen() -> str:
        async with project.async_client() as listener:
            stream = await listener.chat.completions.create(model=model, stream=True, **ending)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert asyncio.run(listen()) == said


def test_c33_an_error_comes_before_the_stream(client: OpenAI, trained: FineTuningJob) -> None:
    model = trained.fine_tuned_model or ""
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model=model, stream=True, **{**ASKED, "temperature": 3})
    assert refused.value.param == "temperature"


def test_c34_log_probabilities(client: OpenAI, trained: FineTuningJob) -> None:
    model = trained.fine_tuned_model or ""
    asked = {"model": model, **ASKED, "logprobs": True, "top_logprobs": 3}
    choice = client.chat.completions.create(**asked).choices[0]
    assert choice.logprobs is not None
    tokens = choice.logprobs.content or []
    assert "".join(token.token for token in tokens).startswith(choice.message.content or "")
    for token in tokens:
        assert token.logprob <= 0
        assert token.bytes is None or bytes(token.bytes).decode() == token.token
        best = token.top_logprobs
        assert len(best) == 3
        assert [each.logprob for each in best] == sorted((each.logprob for each in best), reverse=True)
        assert best[0].token == token.token, "at temperature 0 the likeliest is taken"
        assert sum(math.exp(each.logprob) for each in best) <= 1.0001
    streamed = [chunk.choices[0].logprobs for chunk in client.chat.completions.create(stream=True, **asked)]
    told = [token for each in streamed if each is not None for token in each.content or []]
    assert [token.to_dict() for token in told] == [token.to_dict() for token in tokens]
    silent = client.chat.completions.create(model=model, **ASKED)
    assert silent.choices[0].logprobs is None
