"""One example: what is read of it, and every kind of fault named with its field."""

from __future__ import annotations

import io
import json

import pytest

from core.data.examples import (
    Completion,
    Conversation,
    Message,
    PreferencePair,
    Text,
    iter_examples,
    must_fit,
    read_messages,
)
from core.data.jsonl import Json
from core.errors import AttuneError, InvalidExample
from core.spec import Method
from tests.core.example_lines import GOOD, MESSAGES, SHAPES, USER, check


@pytest.mark.parametrize(("line", "code", "field"), SHAPES, ids=range(len(SHAPES)))
def test_faulty_examples_say_where_and_what_to_change(line: str, code: str, field: str | None) -> None:
    summary = check(f"{GOOD}\n{line}\n")
    errors = [finding for finding in summary.findings if finding.severity == "error"]
    assert [(finding.code, finding.field, finding.line) for finding in errors] in (
        [(code, field, 2)],
        [(code, field, 2), ("missing_content", f"{MESSAGES}.content", 2)],  # a call that cannot be read is no call
    )
    assert summary.examples == 1
    # What is wrong, and behind the comma or semicolon what to change
    assert any(mark in errors[0].message for mark in (";", " has to be ", " reads ", "only text"))
    with pytest.raises(InvalidExample) as caught:
        list(iter_examples(io.BytesIO(f"{GOOD}\n{line}\n".encode())))
    assert (caught.value.code, caught.value.field, caught.value.line) == (code, field, 2)
    assert caught.value.message.startswith("line 2")


def test_what_is_read() -> None:
    lines = [
        '{"messages":[{"role":"developer","content":""},'
        + USER
        + ',{"role":"assistant","content":"Hello","weight":0,"refusal":null,"annotations":[]},'
        '{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}],"name":"Ann"},'
        '{"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function","function":'
        '{"name":"f","arguments":{"x":1}}}]},{"role":"tool","tool_call_id":"c1","content":"2"},'
        '{"role":"assistant","content":"3","reasoning_content":"r"}],'
        '"tools":[{"type":"function","function":{"name":"f"}}],"parallel_tool_calls":false}',
        '{"prompt":"","completion":"b"}',
        '{"text":"t"}',
    ]
    read = list(iter_examples(io.BytesIO("\n".join(lines).encode())))
    assert [number for number, _ in read] == [1, 2, 3]
    conversation, completion, text = (example for _, example in read)
    assert isinstance(conversation, Conversation)
    roles = ["developer", "user", "assistant", "user", "assistant", "tool", "assistant"]
    assert [message.role for message in conversation.messages] == roles
    assert [message.weight for message in conversation.messages] == [1, 1, 0, 1, 1, 1, 1]
    assert conversation.messages[3] == Message("user", "a\nb", name="Ann")
    (call,) = conversation.messages[4].tool_calls
    assert (call.name, call.arguments, call.id) == ("f", '{"x":1}', "c1")
    assert conversation.messages[5].tool_call_id == "c1"
    assert conversation.messages[6].reasoning_content == "r"
    assert conversation.tools == ({"type": "function", "function": {"name": "f"}},)
    assert completion == Completion("", "b")
    assert text == Text("t")


def test_messages_of_a_request() -> None:
    read = read_messages([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": ""}])
    assert read.messages[1].content == ""
    for messages, param in (([], "messages"), ([{"role": "user"}], "messages[0].content"), ([3], "messages[0]")):
        with pytest.raises(AttuneError) as caught:
            read_messages(list[Json](messages))
        assert (caught.value.code, caught.value.param) == ("invalid_messages", param)
    with pytest.raises(AttuneError) as caught:
        read_messages([{"role": "user", "content": "Hi"}], [{}])
    assert caught.value.param == "tools[0]"


def pair(**changes: Json) -> str:
    """A preference pair with some of its keys changed, or left out where the change is ...."""
    good: dict[str, Json] = {
        "input": {"messages": [{"role": "user", "content": "Hi"}]},
        "preferred_output": [{"role": "assistant", "content": "Hello"}],
        "non_preferred_output": [{"role": "assistant", "content": "What?"}],
    }
    return json.dumps({key: value for key, value in {**good, **changes}.items() if value is not ...})


def answers(*contents: str) -> list[Json]:
    return [{"role": "assistant", "content": content} for content in contents]


HI: Json = {"role": "user", "content": "Hi"}


def test_c30_a_pair_reads_alike_in_both_spellings() -> None:
    older = pair(
        preferred_output=..., preferred_completion=answers("Hello"),
        non_preferred_output=..., non_preferred_completion=answers("What?"),
    )  # fmt: skip
    summary = check(f"{pair()}\n{older}\n")
    assert (summary.kind, summary.examples, summary.findings) == ("preference", 2, ())
    (_, first), (_, second) = iter_examples(io.BytesIO(f"{pair()}\n{older}".encode()))
    assert first == second
    assert isinstance(first, PreferencePair)
    assert (first.messages[0].content, first.preferred.content, first.non_preferred.content) == ("Hi", "Hello", "What?")
    assert check(f"{pair()}\n{GOOD}\n").kind == "mixed"


def test_of_a_pair_the_answers_alone_are_supervised() -> None:
    earlier: Json = {"messages": [HI, *answers("Hello"), {"role": "user", "content": "And?"}], "tools": []}
    ((_, read),) = iter_examples(io.BytesIO(pair(input=earlier).encode()))
    assert isinstance(read, PreferencePair)
    for conversation, text in zip(read.answered(), ("Hello", "What?"), strict=True):
        assert [message.weight for message in conversation.messages if message.role == "assistant"] == [0, 1]
        assert conversation.messages[-1].content == text


PAIRS: list[tuple[str, str, str]] = [
    (pair(input=...), "missing_field", "input"),
    (pair(input="Hi"), "missing_field", "input"),
    (pair(input={"message": []}), "missing_field", "input"),
    (pair(input={"messages": []}), "wrong_type", "input.messages"),
    (pair(input={"messages": [{"role": "human", "content": "Hi"}]}), "unknown_role", "input.messages[0].role"),
    (pair(input={"messages": [HI, *answers("Hello")]}), "last_message_is_assistant", "input.messages[1].role"),
    (pair(input={"messages": [HI], "tools": [{}]}), "invalid_tool", "input.tools[0]"),
    (pair(input={"messages": [HI], "functions": [{}]}), "deprecated_field", "input.functions"),
    (pair(preferred_output=...), "missing_field", "preferred_output"),
    (pair(non_preferred_output=...), "missing_field", "non_preferred_output"),
    (pair(preferred_output="Hello"), "wrong_type", "preferred_output"),
    (pair(preferred_output=[]), "wrong_type", "preferred_output"),
    (pair(preferred_output=answers("Hello", "there")), "wrong_length", "preferred_output"),
    (pair(preferred_output=[HI]), "wrong_role", "preferred_output[0].role"),
    (pair(preferred_output=answers("")), "empty_content", "preferred_output[0].content"),
    (
        pair(preferred_output=[{"role": "assistant", "content": "Hello", "weight": 0}]),
        "no_supervised_tokens",
        "preferred_output[0].weight",
    ),
    (pair(non_preferred_output=answers("Hello")), "identical_answers", "non_preferred_output"),
    (pair(preferred_completion=answers("Hello")), "given_twice", "preferred_completion"),
]


@pytest.mark.parametrize(("line", "code", "field"), PAIRS)
def test_faulty_pairs_are_found(line: str, code: str, field: str) -> None:
    summary = check(line)
    assert [(finding.code, finding.field) for finding in summary.findings] == [(code, field)]
    assert summary.error_count == 1


def test_an_example_has_to_fit_the_method() -> None:
    chat, preference = (example for _, example in iter_examples(io.BytesIO(f"{GOOD}\n{pair()}".encode())))
    must_fit(chat, Method.SUPERVISED, 1)
    must_fit(preference, Method.DPO, 2)
    for example, method in ((chat, Method.DPO), (preference, Method.SUPERVISED)):
        with pytest.raises(InvalidExample, match="line 7: ") as caught:
            must_fit(example, method, 7)
        assert (caught.value.code, caught.value.line) == ("wrong_method", 7)
