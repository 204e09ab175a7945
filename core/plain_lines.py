"""The lines that most files are made of, recognised at a glance: a chat of plain turns, a prompt and its completion,
a text. Whatever is not plainly right is None here and goes through `core.example_reader`, which alone finds fault.

Reading a line into typed structures takes a third of the time of reading it into dictionaries. A key that stands
twice shows in the count, as it does there.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from core.jsonl import keys_in

Kind = Literal["chat", "completion", "text"]


class _Instructed(msgspec.Struct, forbid_unknown_fields=True, gc=False, tag_field="role", tag="system"):
    content: str


class _Asked(msgspec.Struct, forbid_unknown_fields=True, gc=False, tag_field="role", tag="user"):
    content: str


class _Answered(msgspec.Struct, forbid_unknown_fields=True, gc=False, tag_field="role", tag="assistant"):
    content: str
    weight: Literal[0, 1] | msgspec.UnsetType = msgspec.UNSET


class _Chat(msgspec.Struct, forbid_unknown_fields=True):
    messages: Annotated[list[_Instructed | _Asked | _Answered], msgspec.Meta(min_length=1)]


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
            return "completion" if keys_in(line) == 2 else None
        if line.startswith(b'{"text"'):
            _decode_text(line)
            return "text" if keys_in(line) == 1 else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None  # what is wrong with it, the reader says
    return None


def _is_plain_chat(line: bytes) -> bool:
    turns = _decode_chat(line).messages
    keys = 1 + 2 * len(turns)
    supervised = False
    for turn in turns:
        if isinstance(turn, _Answered):
            if turn.content.isspace() or not turn.content:
                return False
            weight = turn.weight
            if weight is msgspec.UNSET:
                supervised = True
            else:
                keys += 1
                supervised = supervised or weight == 1
    return supervised and isinstance(turns[-1], _Answered) and keys_in(line) == keys
