"""What an example says once it is read: a conversation, a prompt with its completion, raw text, or a preference.

Values only; `core.data.examples` reads them from JSON and `core.rendering.render` turns them into tokens.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from core.data.jsonl import Json

ROLES = ("system", "developer", "user", "assistant", "tool")


class ToolCall(msgspec.Struct, frozen=True):
    """A function the assistant calls. `arguments` is the text of a JSON object."""

    name: str
    arguments: str
    id: str | None = None


class Message(msgspec.Struct, frozen=True):
    """One turn. `weight` 0 keeps an assistant's turn out of the loss; other roles are never in it."""

    role: str
    content: str | None
    weight: int = 1
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    reasoning_content: str | None = None


class Conversation(msgspec.Struct, frozen=True):
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Json], ...] = ()


class Completion(msgspec.Struct, frozen=True):
    prompt: str
    completion: str


class Text(msgspec.Struct, frozen=True):
    text: str


class PreferencePair(msgspec.Struct, frozen=True):
    """Two answers to one prompt, of which the first is the better."""

    messages: tuple[Message, ...]  # the prompt; nothing in it is supervised
    preferred: Message
    non_preferred: Message
    tools: tuple[dict[str, Json], ...] = ()

    def answered(self) -> tuple[Conversation, Conversation]:
        """(with the preferred answer, with the other); each supervises its answer alone."""
        prompt = tuple(msgspec.structs.replace(message, weight=0) for message in self.messages)
        preferred, non_preferred = (
            Conversation((*prompt, answer), self.tools) for answer in (self.preferred, self.non_preferred)
        )
        return preferred, non_preferred


Example: TypeAlias = Conversation | Completion | Text | PreferencePair
