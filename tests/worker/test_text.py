"""The older route: a plain prompt, answered as training's prompt and completion rows are."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types import Completion

from tests.worker.serving import QUESTION, TUNED, Place


def ask(client: OpenAI, **more: Any) -> Any:
    options = {"model": TUNED, "prompt": QUESTION, "temperature": 0, "max_tokens": 8, **more}
    return client.completions.create(**options)


def test_whole_and_streamed_say_the_same(client: OpenAI) -> None:
    whole = ask(client)
    assert isinstance(whole, Completion)
    assert (whole.object, whole.model, whole.id[:5]) == ("text_completion", TUNED, "cmpl-")
    assert whole.choices[0].finish_reason in ("stop", "length")
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    assert whole.usage.completion_tokens <= 8
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == whole.choices[0].text
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert (chunks[-1].choices, chunks[-1].usage.total_tokens) == ([], whole.usage.total_tokens)
    assert ask(client, prompt=[QUESTION]).choices[0].text == whole.choices[0].text
    assert ask(client, max_tokens=None).usage.completion_tokens <= 16


def test_n_stop_and_c34_legacy_logprobs(client: OpenAI) -> None:
    several = ask(client, n=3, best_of=3, temperature=1, seed=1)
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    choice = ask(client, logprobs=2).choices[0]
    shown = choice.logprobs
    assert "".join(shown.tokens) == choice.text
    for token, logprob, rivals, offset in zip(
        shown.tokens, shown.token_logprobs, shown.top_logprobs, shown.text_offset, strict=True
    ):
        assert rivals[token] == logprob
        assert len(rivals) == 2
        assert choice.text[offset:].startswith(token)
    streamed = [chunk.choices[0].logprobs for chunk in ask(client, logprobs=2, stream=True)]
    assert [offset for part in streamed for offset in part.text_offset] == shown.text_offset
    letter = choice.text[3]
    assert ask(client, stop=[letter]).choices[0].text == choice.text[: choice.text.index(letter)]


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"echo": True}, "invalid_value", "echo"),
        ({"suffix": "end"}, "invalid_value", "suffix"),
        ({"best_of": 3}, "invalid_value", "best_of"),
        ({"logprobs": 6}, "invalid_value", "logprobs"),
        ({"prompt": ["a", "b"]}, "invalid_value", "prompt"),
        ({"prompt": [1, 2]}, "invalid_value", "prompt"),
        ({"prompt": ""}, "invalid_value", "prompt"),
        ({"prompt": "<|im_end|>"}, "special_token_in_text", "prompt"),
    ],
)
def test_what_cannot_be_answered_is_refused(client: OpenAI, changes: dict[str, Any], code: str, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, **changes)
    assert (refused.value.code, refused.value.param) == (code, param)


def test_the_server_wants_its_token(place: Place) -> None:
    with place.http() as http:
        assert http.post("/v1/completions", json={}, headers={"Authorization": "Bearer no"}).status_code == 401
