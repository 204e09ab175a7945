"""What a training file is, said a second time: the standard library's parser with every door closed, and a JSON Schema.

Written from the description of the format, and not from `core`, so that the two can disagree.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator

MAX_DEPTH = 32
MAX_LINE_BYTES = 1024 * 1024
ARCHIVES = (b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"\x89PNG", b"\xff\xd8\xff", b"%PDF",
            b"PAR1", b"ARROW1", b"SQLite format 3", b"\xff\xfe", b"\xfe\xff", b"{\x00", b"\x00{")  # fmt: skip
ROLES = ("system", "developer", "user", "assistant", "tool")
_TEXT = {"type": "string"}
_NAMED = {"type": "object", "required": ["name"], "properties": {"name": _TEXT}}
_TOOL = {"type": "object", "required": ["function"], "properties": {"function": _NAMED}}
_NOTHING = {"enum": [None]}


class NotJsonl(Exception):
    """The whole file is refused."""


class Faulty(Exception):
    """A line is an object, and wrong."""


@dataclass(frozen=True)
class Verdict:
    """`is_jsonl` false: refused whole, and the rest says nothing."""

    is_jsonl: bool
    lines: int = 0
    faulty: frozenset[int] = frozenset()


def judge(data: bytes) -> Verdict:
    try:
        lines = _lines(data)
        parsed = [_parse(line) for line in lines]
    except NotJsonl:
        return Verdict(False)
    faulty = {number for number, value in enumerate(parsed, 1) if isinstance(value, Faulty) or not is_example(value)}
    return Verdict(True, len(parsed), frozenset(faulty))


def _lines(data: bytes) -> list[bytes]:
    if data.startswith(ARCHIVES):
        raise NotJsonl
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if any(len(line) > MAX_LINE_BYTES for line in lines):
        raise NotJsonl
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines or not all(line.strip() for line in lines):
        raise NotJsonl
    return lines


def _parse(line: bytes) -> Any:
    """The object of a line, or the Faulty that says that JSON allows it and we do not. Raises NotJsonl."""
    try:
        text = line.decode("utf-8", "strict")
    except UnicodeDecodeError as error:
        raise NotJsonl from error
    if _depth(text) > MAX_DEPTH:
        return Faulty("deep")
    faults: list[str] = []

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            faults.append("twice")
        return dict(pairs)

    def whole(digits: str) -> int:
        if len(digits) > 20 or not -(2**63) <= int(digits) < 2**63:
            faults.append("range")
            return 0
        return int(digits)

    def real(digits: str) -> float:
        if not math.isfinite(float(digits)):
            faults.append("infinite")
        return float(digits)

    def constant(name: str) -> float:
        faults.append(name)
        return 0.0

    try:
        value = json.loads(text, object_pairs_hook=once, parse_int=whole, parse_float=real, parse_constant=constant)
    except ValueError as error:
        raise NotJsonl from error
    if not isinstance(value, dict):
        raise NotJsonl
    # \u0000 and halves of surrogate pairs show once more when the value is written without escapes
    plain = json.dumps(value, ensure_ascii=False)
    if faults or re.search(r"[\ud800-\udfff]", plain) or _holds_nul(value):
        return Faulty(*faults)
    return value


def _holds_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_holds_nul(part) for pair in value.items() for part in pair)
    return isinstance(value, list) and any(_holds_nul(part) for part in value)


def _depth(text: str) -> int:
    """By walking over the characters: brackets in strings do not count."""
    depth = deepest = 0
    in_string = escaped = False
    for character in text:
        if in_string:
            in_string = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character == '"':
            in_string = True
        elif character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest


# The form of an example


def is_example(value: dict[str, Any]) -> bool:
    pair = {"preferred_output", "preferred_completion", "non_preferred_output", "non_preferred_completion"}
    if pair & value.keys():
        return _is_pair(value)
    if "messages" in value:
        return _beside(value) and _fits("messages", value["messages"]) and _teaches(value["messages"])
    if "prompt" in value or "completion" in value:
        return _fits("completion", value)
    return _fits("text", value)


def _is_pair(value: dict[str, Any]) -> bool:
    answers: list[Any] = []
    for name in ("preferred", "non_preferred"):
        given = [value[key] for key in (f"{name}_output", f"{name}_completion") if key in value]
        if len(given) != 1 or not _fits("messages", given[0]) or len(given[0]) != 1:
            return False
        answers.append(given[0][0])
    asked = value.get("input")
    if not isinstance(asked, dict) or not _beside(asked) or not _fits("messages", asked.get("messages")):
        return False
    if asked["messages"][-1]["role"] == "assistant" or any(answer["role"] != "assistant" for answer in answers):
        return False
    if any(_number(answer.get("weight")) == 0 for answer in answers):
        return False
    return _meaning(answers[0]) != _meaning(answers[1])


def _meaning(message: dict[str, Any]) -> Any:
    content = message.get("content")
    if isinstance(content, list):
        content = "\n".join(part["text"] for part in content)
    calls = [
        (call["function"]["name"], _text_of(call["function"]["arguments"]), call.get("id"))
        for call in message.get("tool_calls") or []
    ]
    return content, calls, message.get("name"), message.get("reasoning_content")


def _text_of(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))


def _beside(value: dict[str, Any]) -> bool:
    if value.get("functions") is not None or value.get("function_call") is not None:
        return False
    return _fits("tools", value.get("tools")) and isinstance(value.get("parallel_tool_calls"), bool | None)


def _teaches(messages: list[Any]) -> bool:
    weights = [_number(message.get("weight")) for message in messages if message["role"] == "assistant"]
    return messages[-1]["role"] == "assistant" and any(weight != 0 for weight in weights)


def _number(weight: Any) -> Any:
    return 1 if weight is None else weight


def _fits(name: str, value: Any) -> bool:
    return _schema(name).is_valid(value) and (name != "messages" or all(_is_message(message) for message in value))


def _is_message(message: dict[str, Any]) -> bool:
    """What a schema cannot say: an answer has words or calls, and arguments are the text of an object."""
    is_answer = message["role"] == "assistant"
    calls = message.get("tool_calls") or []
    for call in calls:
        arguments = call["function"].get("arguments")
        if isinstance(arguments, str) and not _is_object_text(arguments):
            return False
    content = message.get("content")
    if isinstance(content, list):
        content = "\n".join(part["text"] for part in content)
    if content is None:
        return bool(calls)
    return not is_answer or bool(calls) or bool(content.strip())


def _is_object_text(text: str) -> bool:
    try:
        return isinstance(_parse(text.encode()), dict)
    except NotJsonl:
        return False


@cache
def _schema(name: str) -> Draft202012Validator:
    part = {"type": "object", "required": ["type", "text"], "properties": {"type": {"const": "text"}, "text": _TEXT}}
    call = {
        "type": "object",
        "required": ["function"],
        "properties": {
            "id": {"type": ["string", "null"]},
            "function": {**_NAMED, "required": ["name", "arguments"],
                         "properties": {"name": _TEXT, "arguments": {"type": ["string", "object"]}}},
        },
    }  # fmt: skip
    fields: dict[str, Any] = {
        "role": {"enum": list(ROLES)},
        "content": {"anyOf": [{"type": ["string", "null"]}, {"type": "array", "items": part}]},
        "weight": {"enum": [None, 0, 1]},
        "tool_calls": {"anyOf": [_NOTHING, {"type": "array", "items": call}]},
        "tool_call_id": {"type": ["string", "null"]},
        "name": {"type": ["string", "null"]},
        "reasoning_content": {"type": ["string", "null"]},
    }
    empty = {"enum": [None, []]}
    message = {
        "type": "object",
        "required": ["role"],
        "properties": fields,
        "additionalProperties": empty,
        "allOf": [
            _unless("assistant", {"weight": _NOTHING, "reasoning_content": _NOTHING, "tool_calls": empty}),
            _unless("tool", {"tool_call_id": _NOTHING}),
        ],
    }
    return Draft202012Validator(
        {
            "messages": {"type": "array", "minItems": 1, "items": message},
            "tools": {"anyOf": [_NOTHING, {"type": "array", "items": _TOOL}]},
            "completion": {
                "type": "object",
                "required": ["prompt", "completion"],
                "properties": {"prompt": _TEXT, "completion": {"type": "string", "minLength": 1}},
            },
            "text": {
                "type": "object",
                "required": ["text"],
                "properties": {"text": {"type": "string", "minLength": 1}},
            },
        }[name]
    )


def _unless(role: str, fields: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [{"properties": {"role": {"const": role}}}, {"properties": fields}]}
