"""What can be said against one example that has the right form: its turns, its texts, what they give away."""

from __future__ import annotations

import re
from collections.abc import Iterator

from core.data.conversation import Completion, Conversation, Example, Message, PreferencePair
from core.data.example_reader import Finding
from core.doctor import personal
from core.doctor.lines import texts_of

# Control tokens of the usual chat templates, for where no base model says which are its own
KNOWN_TOKENS = re.compile(
    r"<\|[a-z][a-z0-9_]{1,40}\|>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<｜[^｜<>]{1,40}｜>"
)
# Not the joiners (U+200C, U+200D), which scripts and emoji need
CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u0080-\u009f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\ufeff]")
# UTF-8 that was read as cp1252 or latin-1, and characters that were lost already
_DAMAGED = re.compile("[\u00c2\u00c3][\u0080-\u00bf]|â€[\u0090-\u203a\u20ac]|\ufffd")
_PERSONAL = {
    "email_address": "an e-mail address",
    "phone_number": "a phone number",
    "card_number": "the number of a payment card",
}


def look(example: Example, line: int) -> Iterator[Finding]:
    """Warnings and hints; nothing here keeps an example from being trained on."""
    if isinstance(example, Conversation):
        yield from _turns(example.messages, "messages", line)
    elif isinstance(example, PreferencePair):
        yield from _turns(example.messages, "input.messages", line)
    elif isinstance(example, Completion) and example.prompt.strip() == example.completion.strip():
        yield Finding("identical_turns", "the completion repeats the prompt", line, "completion", "warning")
    is_chat = isinstance(example, Conversation | PreferencePair)
    for field, _, text in texts_of(example):
        yield from _text(text, field, line, is_chat=is_chat)


def _turns(messages: tuple[Message, ...], path: str, line: int) -> Iterator[Finding]:
    before: Message | None = None
    for index, message in enumerate(messages):
        field = f"{path}[{index}]"
        role = message.role
        if role in ("system", "developer"):
            if index:
                advice = f"a {role} message stands behind others; most templates take it at the start alone"
                yield Finding("system_not_first", advice, line, f"{field}.role", "warning")
            before = message if index == 0 else before
        elif before is None or before.role in ("system", "developer"):
            if role == "assistant":
                advice = "the conversation begins with the assistant; begin with the user's message"
                yield Finding("starts_with_assistant", advice, line, f"{field}.role", "warning")
            before = message
        else:
            if role == before.role and role in ("user", "assistant") and not before.tool_calls:
                advice = f"two {role} messages in a row; make one of them, or put the turn between them back"
                yield Finding("roles_do_not_alternate", advice, line, f"{field}.role", "warning")
            if message.content and message.content.strip() and message.content == before.content:
                advice = "the message repeats the one before it; remove it or write what was meant"
                yield Finding("identical_turns", advice, line, f"{field}.content", "warning")
            before = message
        if role != "tool" and not message.tool_calls and not (message.content or "").strip():
            advice = f"the {role} message has no text; write it or remove it"
            yield Finding("empty_turn", advice, line, f"{field}.content", "warning")


def _text(text: str, field: str, line: int, *, is_chat: bool) -> Iterator[Finding]:
    if is_chat and text != text.strip() and text.strip():
        advice = "the text begins or ends with blanks, which are learned as well; trim it"
        yield Finding("surrounding_whitespace", advice, line, field, "hint")
    if match := CONTROLS.search(text):
        advice = f"the text holds the invisible character U+{ord(match[0]):04X}; remove it"
        yield Finding("control_characters", advice, line, field, "warning")
    if match := _DAMAGED.search(text):
        shown = "a character that was lost (U+FFFD)" if match[0] == "\ufffd" else f"{match[0]!r}"
        advice = f"the text holds {shown}, as when a file is read in the wrong encoding; convert the source anew"
        yield Finding("damaged_encoding", advice, line, field, "warning")
    for kind in dict.fromkeys(kind for kind, _, _ in personal.find(text)):
        advice = f"the text holds {_PERSONAL[kind]}, which the model may repeat; mask it"
        yield Finding(kind, advice, line, field, "warning")


def known_tokens(example: Example, line: int) -> Iterator[Finding]:
    for field, _, text in texts_of(example):
        if match := KNOWN_TOKENS.search(text):
            advice = f"the text holds {match[0]}, a control token of some chat template; remove it"
            yield Finding("special_token_in_text", advice, line, field, "warning")
