"""An example as a person reads it: who says what; a prompt and how it goes on; a text; two answers to one question."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import cast

from api.dashboard.blocks import tag, text
from api.dashboard.rest import Json

MOST_CHARACTERS = 2000  # of a part


def show_example(example: object) -> None:
    """Whatever it is, for a file may hold anything."""
    parts = _parts_of(example)
    if not parts:
        text("code", json.dumps(example, ensure_ascii=False)[:MOST_CHARACTERS], "small break")
    for name, words in parts:
        with tag("div", "turn"):
            text("span", name, "quiet small")
            text("p", words[:MOST_CHARACTERS] or "(empty)", "said-words" if words else "said-words quiet")


def show_line(line: str) -> None:
    """A line of JSONL, also of one that cannot be read."""
    try:
        show_example(json.loads(line))
    except (ValueError, RecursionError):
        text("code", line[:MOST_CHARACTERS], "small break")


def parts_of(line: str) -> list[tuple[str, str]]:
    """(who or what, the words) of a line; empty where it cannot be read so."""
    try:
        return _parts_of(json.loads(line))
    except (ValueError, RecursionError):
        return []


def _parts_of(example: object) -> list[tuple[str, str]]:
    return list(_parts(cast(Json, example))) if isinstance(example, dict) else []


def _parts(example: Json) -> Iterator[tuple[str, str]]:
    if "input" in example and "preferred_output" in example:
        question = example["input"]
        yield from _turns(cast(Json, question).get("messages") if isinstance(question, dict) else None)
        for name, label in (("preferred_output", "preferred"), ("non_preferred_output", "other")):
            yield from ((label, words) for _, words in _turns(example.get(name)))
        return
    yield from _turns(example.get("messages"))
    for name in ("prompt", "completion", "text"):
        if isinstance(example.get(name), str):
            yield name, example[name]


def _turns(messages: object) -> Iterator[tuple[str, str]]:
    for message in cast(list[object], messages) if isinstance(messages, list) else ():
        if isinstance(message, dict):
            turn = cast(Json, message)
            yield str(turn.get("role", "?")), _words(turn)


def _words(message: Json) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    return json.dumps({name: value for name, value in message.items() if name != "role"}, ensure_ascii=False)
