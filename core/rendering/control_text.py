"""Keeps a user's text from becoming a control token in silence: `<|im_end|>` in a message would end its turn."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

from core.data.conversation import Completion, Conversation, Example, Message, PreferencePair
from core.data.jsonl import Json
from core.errors import InvalidExample


class ControlText:
    """The texts that a tokenizer reads as control tokens."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = tuple(sorted(set(texts)))
        self._starts = frozenset(text[0] for text in self.texts)

    def refuse_in(self, example: Example) -> None:
        """Raises `InvalidExample` (special_token_in_text) that names the field and the token."""
        if isinstance(example, Conversation):
            self._refuse_in_messages(example.messages, "messages")
            self._refuse_in_tools(example.tools, "tools")
        elif isinstance(example, PreferencePair):
            self._refuse_in_messages(example.messages, "input.messages")
            self._refuse_in_tools(example.tools, "input.tools")
            self._refuse_in_messages([example.preferred], "preferred_output")
            self._refuse_in_messages([example.non_preferred], "non_preferred_output")
        elif isinstance(example, Completion):
            self._refuse(example.prompt, "prompt")
            self._refuse(example.completion, "completion")
        else:
            self._refuse(example.text, "text")

    def _refuse_in_messages(self, messages: Sequence[Message], path: str) -> None:
        for index, message in enumerate(messages):
            field = f"{path}[{index}]"
            self._refuse(message.content, f"{field}.content")
            if message.reasoning_content or message.name or message.tool_call_id:
                self._refuse(message.reasoning_content, f"{field}.reasoning_content")
                self._refuse(message.name, f"{field}.name")
                self._refuse(message.tool_call_id, f"{field}.tool_call_id")
            for number, call in enumerate(message.tool_calls):
                for text in (call.id, call.name, *_strings(json.loads(call.arguments))):
                    self._refuse(text, f"{field}.tool_calls[{number}]")

    def _refuse_in_tools(self, tools: Sequence[dict[str, Json]], path: str) -> None:
        for index, tool in enumerate(tools):
            for text in _strings(tool):
                self._refuse(text, f"{path}[{index}]")

    def _refuse(self, text: str | None, field: str) -> None:
        if not text or not any(start in text for start in self._starts):
            return
        for control in self.texts:
            if control in text:
                raise InvalidExample(
                    f"{field} contains {control}, which is a control token of this base model; "
                    "write it otherwise, for instance with a space in it",
                    code="special_token_in_text",
                    field=field,
                )


def _strings(value: Json) -> Iterator[str]:
    """Every text within, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _strings(item)
