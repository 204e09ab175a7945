"""The lines that most files are made of, recognised at a glance: a chat of plain turns, a prompt and its completion,
a text. Whatever is not plainly right is None here and goes through `core.data.example_reader`, which alone finds fault.

Reading a line into typed structures takes a third of the time of reading it into dictionaries. A key that stands
twice shows in the count, as it does there.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec

from core.data.conversation import Completion, Conversation, Message, Text

Kind = Literal["chat", "completion", "text"]
_CHAT, _COMPLETION, _TEXT = b'{"messages"', b'{"prompt"', b'{"text"'


class _Instructed(msgspec.Struct, forbid_unknown_fields=True, gc=False, tag_field="role", tag="system"):
    content: str
    weight: ClassVar[msgspec.UnsetType] = msgspec.UNSET


class _Asked(msgspec.Struct, forbid_unknown_fields=True, gc=False, tag_field="role", tag="user"):
    content: str
    weight: ClassVar[msgspec.UnsetType] = msgspec.UNSET


class _Answered(msgspec.Struct, forbid_unknown_fields=True, gc=False, tag_field="role", tag="assistant"):
    content: Annotated[str, msgspec.Meta(min_length=1)]
    weight: Literal[0, 1] | msgspec.UnsetType = msgspec.UNSET


class _Chat(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    messages: Annotated[list[_Instructed | _Asked | _Answered], msgspec.Meta(min_length=1)]


class _Completion(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    prompt: str
    completion: Annotated[str, msgspec.Meta(min_length=1)]


class _Text(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    text: Annotated[str, msgspec.Meta(min_length=1)]


_ROLES: dict[type[_Instructed | _Asked | _Answered], str] = {
    _Instructed: "system",
    _Asked: "user",
    _Answered: "assistant",
}
_chat = msgspec.json.Decoder(_Chat)
_completion = msgspec.json.Decoder(_Completion)
_text = msgspec.json.Decoder(_Text)


def plain_example(line: bytes) -> Conversation | Completion | Text | None:
    """What the line says when nothing at all can be said against it."""
    try:
        if line.startswith(_CHAT):
            chat = _chat.decode(line)
            return _conversation(chat) if _are_plain_chats(line, [chat]) else None
        if line.startswith(_COMPLETION):
            pair = _completion.decode(line)
            return Completion(pair.prompt, pair.completion) if _are_plain_completions(line, [pair]) else None
        if line.startswith(_TEXT):
            text = _text.decode(line)
            return Text(text.text) if _are_plain_texts(line, [text]) else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None  # what is wrong with it, the reader says
    return None


def _conversation(chat: _Chat) -> Conversation:
    messages = [
        Message(_ROLES[turn.__class__], turn.content, 1 if turn.weight is msgspec.UNSET else turn.weight)
        for turn in chat.messages
    ]
    return Conversation(tuple(messages))


def plain_block(block: bytes) -> tuple[Kind, int] | None:
    """(kind, how many) of lines that are all plain and of one kind; None says nothing against them.

    msgspec reads the objects of a block without asking where lines end. But each of our objects opens with a text
    that can stand nowhere within another, so with as many openings at the start of a line as there are lines and
    objects, every line holds one object.
    """
    try:
        if block.startswith(_CHAT):
            lines = _lines(block, _CHAT)
            chats = _chat.decode_lines(block) if lines else []
            return ("chat", lines) if 0 < lines == len(chats) and _are_plain_chats(block, chats) else None
        if block.startswith(_COMPLETION):
            lines = _lines(block, _COMPLETION)
            pairs = _completion.decode_lines(block) if lines else []
            is_plain = 0 < lines == len(pairs) and _are_plain_completions(block, pairs)
            return ("completion", lines) if is_plain else None
        if block.startswith(_TEXT):
            lines = _lines(block, _TEXT)
            texts = _text.decode_lines(block) if lines else []
            return ("text", lines) if 0 < lines == len(texts) and _are_plain_texts(block, texts) else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return None


def _lines(block: bytes, opening: bytes) -> int:
    """How many lines the block has; 0 unless each begins with `opening`."""
    lines = block.split(b"\n")
    lines.pop()  # what stands behind the last line end: nothing
    return len(lines) if all(line.startswith(opening) for line in lines) else 0


def _are_plain_chats(data: bytes, chats: list[_Chat]) -> bool:
    """Lists where loops over the turns would do: this is where the time of a check goes."""
    for chat in chats:
        last = chat.messages[-1]
        if last.__class__ is not _Answered or last.weight == 0:
            return False  # with the last answer supervised, the example is
    turns = [turn for chat in chats for turn in chat.messages]
    contents = [turn.content for turn in turns]
    if True in [content.isspace() for content in contents]:
        return False
    weights = len(turns) - [turn.weight for turn in turns].count(msgspec.UNSET)
    return _has_keys(data, len(chats) + 2 * len(turns) + weights, "".join(contents).count(":"))


def _are_plain_completions(data: bytes, pairs: list[_Completion]) -> bool:
    colons = sum(pair.prompt.count(":") + pair.completion.count(":") for pair in pairs)
    return _has_keys(data, 2 * len(pairs), colons)


def _are_plain_texts(data: bytes, texts: list[_Text]) -> bool:
    return _has_keys(data, len(texts), sum(text.text.count(":") for text in texts))


def _has_keys(data: bytes, keys: int, colons: int) -> bool:
    """Whether no key came twice in lines that msgspec read, in which `keys` stand once and texts hold `colons`.

    Every colon stands behind a key or within a text. A key too many brings one more, and the texts that msgspec
    dropped for it bring theirs. (An escaped colon would be missing in the count; \\u0000 is refused besides.)
    """
    if b"\\u00" in data and (b"\\u0000" in data or b"\\u003a" in data or b"\\u003A" in data):
        return False
    return data.count(b":") == keys + colons
