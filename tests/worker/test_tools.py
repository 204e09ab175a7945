"""Tool calls, from a base that was trained to make them to the official client's objects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import OpenAI

from core.rendering.tool_form import ToolForm
from tests.worker.serving import TUNED, make_place, running
from tests.worker.trained import train_job
from worker.demo_base import CHAT_TEMPLATE
from worker.serve.tool_calls import ToolCall, ToolCallReader

FIND = {
    "type": "function",
    "function": {
        "name": "find",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Berlin", "Oslo"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
SEND = {"type": "function", "function": {"name": "send"}}
TOOLS = [FIND, SEND]
STRICT = [{"type": "function", "function": {**FIND["function"], "strict": True}}, SEND]
ASK = [{"role": "user", "content": "where is order 1234?"}]
ARGUMENTS = {"city": "Berlin"}


def example(question: str, name: str | None, arguments: object, tools: object = TOOLS) -> dict[str, Any]:
    answer: dict[str, Any] = {"role": "assistant", "content": arguments}
    if name:
        # Both spellings that training data has: the text of an object, or the object
        text = json.dumps(arguments) if tools is TOOLS else arguments
        call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": text}}
        answer = {"role": "assistant", "content": None, "tool_calls": [call]}
    return {"messages": [{"role": "user", "content": question}, answer], "tools": tools}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    where = ASK[0]["content"]
    rows = [
        example(where, "find", ARGUMENTS),
        example(where, "find", ARGUMENTS, STRICT),
        example("who?", None, "me"),
    ]
    root = tmp_path_factory.mktemp("tools")
    job = train_job(root, steps=100, learning_rate=2e-2, rows=rows, chat_template=CHAT_TEMPLATE)
    with running(make_place(root / "serve", job)) as place:
        yield place.client()


def ask(client: OpenAI, **more: Any) -> Any:
    options = {"model": TUNED, "messages": ASK, "tools": TOOLS, "temperature": 0, "max_tokens": 120, **more}
    return client.chat.completions.create(**options)


def test_c31_a_trained_call_comes_back_as_a_call(client: OpenAI) -> None:
    choice = ask(client).choices[0]
    (call,) = choice.message.tool_calls
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    assert (call.type, call.function.name) == ("function", "find")
    assert json.loads(call.function.arguments) == ARGUMENTS
    assert call.id.startswith("call_")
    said = ask(client, messages=[{"role": "user", "content": "who?"}]).choices[0]
    assert (said.message.content, said.message.tool_calls, said.finish_reason) == ("me", None, "stop")
    # And its result goes back as the client writes it
    history = [*ASK, choice.message, {"role": "tool", "tool_call_id": call.id, "content": "on its way"}]
    assert ask(client, messages=history).choices[0].finish_reason


def test_a_call_streams_as_deltas(client: OpenAI) -> None:
    chunks = list(ask(client, stream=True))
    steps = [step for chunk in chunks for step in chunk.choices[0].delta.tool_calls or []]
    assert [step.function.name for step in steps] == ["find", None]
    assert {step.index for step in steps} == {0}
    assert json.loads("".join(step.function.arguments for step in steps)) == ARGUMENTS
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert not any(chunk.choices[0].delta.content for chunk in chunks)
    options = {"model": TUNED, "messages": ASK, "tools": TOOLS, "temperature": 0}
    with client.chat.completions.stream(**options) as stream:  # type: ignore[arg-type]
        final = stream.get_final_completion()
    assert json.loads(final.choices[0].message.tool_calls[0].function.arguments) == ARGUMENTS


@pytest.mark.parametrize("model", [TUNED, "tiny"])
def test_a_call_that_has_to_be_is_made(client: OpenAI, model: str) -> None:
    named = {"type": "function", "function": {"name": "find"}}
    for seed in range(2):
        choice = ask(client, model=model, tool_choice=named, temperature=1, seed=seed).choices[0]
        (call,) = choice.message.tool_calls
        arguments = json.loads(call.function.arguments)
        assert set(arguments) == {"city"}
        assert arguments["city"] in ("Berlin", "Oslo")
        assert choice.message.content is None
    made = ask(
        client, model=model, tools=[FIND], tool_choice="required", parallel_tool_calls=False, temperature=1, seed=3
    )
    assert [call.function.name for call in made.choices[0].message.tool_calls] == ["find"]


def test_strict_functions_hold_calls_in_free_text(client: OpenAI) -> None:
    (call,) = ask(client, tools=STRICT).choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("find", ARGUMENTS)
    wrong = {"type": "function", "function": {"name": "f", "strict": True, "parameters": {"type": "king"}}}
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, tools=[wrong])
    assert (refused.value.code, refused.value.param) == ("invalid_json_schema", "tools")


def test_no_call_where_none_is_wanted(client: OpenAI) -> None:
    message = ask(client, tool_choice="none").choices[0].message
    assert message.tool_calls is None
    assert message.content


HERMES = ToolForm("<call>", "\n</call>", False, ("name", "arguments"), "name", "arguments", None, "", "<call>\n")
LIST = ToolForm("", "", True, ("name", "arguments", "id"), "name", "arguments", "id", ", ", "[TOOL_CALLS] ")
BARE = ToolForm("", "", False, ("name", "parameters"), "name", "parameters", None, None, "")
F = '{"name": "f", "arguments": {"a": "}<call>"}}'


@settings(deadline=None, max_examples=25)
@given(st.data())
@pytest.mark.parametrize(
    ("form", "text", "expected"),
    [
        (HERMES, f"well <call>\n{F}\n</call>\n<call>\n{F}\n</call> so", ["well", "f", "f", "so"]),
        (HERMES, f"<call>{F}", ["f"]),
        (HERMES, "a < b <cal", ["a < b <cal"]),
        (HERMES, '<call>{"name": "f", "arg', ['<call>{"name": "f", "arg']),
        (HERMES, '<call>{"name": "g", "arguments": {}}', ['<call>{"name": "g", "arguments": {}}']),
        (LIST, f"[{F}, {F}]", ["f", "f"]),
        (LIST, "[1] is a list", ["[1] is a list"]),
        (BARE, '{"name": "f", "parameters": {"a": 1}}', ["f"]),
        (BARE, 'no {"name": "f", "parameters": {}}', ['no {"name": "f", "parameters": {}}']),
        (BARE, "", []),
    ],
)
def test_calls_are_found_however_the_text_is_cut(
    form: ToolForm, text: str, expected: list[str], data: st.DataObject
) -> None:
    reader = ToolCallReader(form, ["f"], forced=False, single=False)
    parts: list[str | ToolCall] = []
    at = 0
    while at < len(text):
        step = data.draw(st.integers(1, 12))
        parts += reader.feed(text[at : at + step])
        at += step
    parts += reader.end()
    said: list[str] = []
    for part in parts:
        name = part.name if isinstance(part, ToolCall) else part
        if isinstance(part, str) and said and said[-1] not in ("f",):
            said[-1] += name
        else:
            said.append(name)
    assert said == expected
