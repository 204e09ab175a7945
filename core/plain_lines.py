"""The lines that most files are made of, recognised at a glance: a chat of plain turns, a prompt and its completion,
a text. Whatever is not plainly right is None here and goes through `core.example_reader`, which alone finds fault.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from core.jsonl import may_hide_keys

Kind = Literal["chat", "completion", "text"]
_Weight = Literal[0, 1] | msgspec.UnsetType


class _Asked(msgspec.Struct, forbid_unknown_fields=True, gc=False, tag_field="role", tag="user"):
    content: str


class _Instructed(_Asked, tag="system"):
    pass


class _Answered(_Asked, tag="assistant"):
    weight: _Weight = msgspec.UNSET


class _Chat(msgspec.Struct, forbid_unknown_fields=True):
    messages: Annotated[list[_Asked | _Instructed | _Answered], msgspec.Meta(min_length=1)]


class _Completion(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    prompt: str
    completion: Annotated[str, msgspec.Meta(min_length=1)]


class _Text(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    text: Annotated[str, msgspec.Meta(min_length=1)]


_decode_chat = msgspec.json.Decoder(_Chat).decode
_decode_completion = msgspec.json.Decoder(_Completion).decode
_decode_text = msgspec.json.Decoder(_Text).decode


def plain_kind(line: bytes) -> Kind | None:
    """What the line is when nothing at all can be said against it."""
    try:
        if line.startswith(b'{"messages"'):
            return "chat" if _is_plain_chat(line) else None
        if line.startswith(b'{"prompt"'):
            _decode_completion(line)
            return "completion" if _has_keys(line, 2) else None
        if line.startswith(b'{"text"'):
            _decode_text(line)
            return "text" if _has_keys(line, 1) else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None  # what is wrong with it, the reader says
    return None


def _is_plain_chat(line: bytes) -> bool:
    turns = _decode_chat(line).messages
    keys = 1 + 2 * len(turns)
    supervised = False
    for turn in turns:
        if turn.__class__ is _Answered:
            if turn.content.isspace() or not turn.content:
                return False
            weight = turn.weight
            if weight is msgspec.UNSET:
                supervised = True
            else:
                keys += 1
                supervised = supervised or weight == 1
    return supervised and turns[-1].__class__ is _Answered and _has_keys(line, keys)


def _has_keys(line: bytes, keys: int) -> bool:
    """Whether the text holds exactly so many keys: one more, and a key stands twice."""
    return not may_hide_keys(line) and line.count(b'":') - line.count(b'\\":') == keys
