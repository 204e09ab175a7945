"""Reads the JSON of one example and says of everything wrong with it where it is and what to change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

from core.data.conversation import ROLES, Completion, Conversation, Example, Message, PreferencePair, Text, ToolCall
from core.errors import AttuneError
from core.data.jsonl import Fault, Json, kind_of, parse_line


@dataclass(frozen=True)
class Finding:
    """A fault of one line: what is wrong and what to change. `field` reads like messages[2].role."""

    code: str
    message: str
    line: int
    field: str | None
    severity: Literal["error", "warning", "hint"] = "error"

    def as_dict(self) -> dict[str, str | int | None]:
        return {
            "code": self.code,
            "message": self.message,
            "line": self.line,
            "field": self.field,
            "severity": self.severity,
        }


def read_line(line: bytes, number: int) -> tuple[Example | None, list[Finding]]:
    """The example on a line and everything found about it; None when a finding is an error."""
    parsed = parse_line(line, number)
    if isinstance(parsed, Fault):
        return None, [Finding(parsed.code, parsed.message, number, parsed.field)]
    reader = _Reader(number)
    example = reader.example(parsed)
    return (None if reader.failed else example), reader.findings


class _Reader:
    """Reads one parsed line into an Example and collects what is wrong with it."""

    def __init__(self, line: int) -> None:
        self.findings: list[Finding] = []
        self.failed = False
        self._line = line

    def _error(self, code: str, field: str | None, message: str) -> None:
        self.failed = True
        self.findings.append(Finding(code, message, self._line, field))

    def _ignored(self, value: dict[str, Json], known: frozenset[str], path: str = "") -> None:
        for key in value.keys() - known:
            message = f'"{path}{key}" is not part of an example and is ignored; remove it or check its spelling'
            self.findings.append(Finding("ignored_field", message, self._line, f"{path}{key}", "warning"))

    def example(self, value: dict[str, Json]) -> Example | None:
        if not _ANSWER_KEYS.isdisjoint(value):
            self._ignored(value, _PAIR_KEYS)
            return self._pair(value)
        if "messages" in value:
            self._ignored(value, _CONVERSATION_KEYS)
            return self._conversation(value)
        if "prompt" in value or "completion" in value:
            self._ignored(value, _COMPLETION_KEYS)
            prompt, completion = self._text(value, "prompt"), self._text(value, "completion")
            if completion == "":
                self._error("empty_content", "completion", "completion is empty; write what the model should answer")
            return Completion(prompt or "", completion or "")
        if "text" in value:
            self._ignored(value, _TEXT_KEYS)
            text = self._text(value, "text")
            if text == "":
                self._error("empty_content", "text", "text is empty; remove the line")
            return Text(text or "")
        self._error(
            "missing_messages",
            "messages",
            'the line has neither "messages" nor "prompt" with "completion" nor "text"' + _shape_advice(value),
        )
        return None

    def _text(self, value: dict[str, Json], field: str) -> str | None:
        text = value.get(field)
        if isinstance(text, str):
            return text
        found = "is missing" if field not in value else f"is {kind_of(text)}"
        self._error("missing_field" if field not in value else "wrong_type", field, f"{field} {found}; give a string")
        return None

    def _conversation(self, value: dict[str, Json]) -> Conversation | None:
        tools = self._tools_beside(value, "")
        messages = self._messages(value["messages"], "messages")
        if messages is None:
            return None
        self._check_turns(messages)
        return Conversation(tuple(messages), tools)

    def _tools_beside(self, value: dict[str, Json], path: str) -> tuple[dict[str, Json], ...]:
        """The tools that stand beside messages, and a word on what else may not."""
        for field, advice in (("functions", 'use "tools"'), ("function_call", "remove it")):
            if value.get(field) is not None:
                self._error("deprecated_field", path + field, f"{field} is deprecated and not trained on; {advice}")
        parallel = value.get("parallel_tool_calls")
        if parallel is not None and not isinstance(parallel, bool):
            self._error("wrong_type", f"{path}parallel_tool_calls", "parallel_tool_calls has to be true or false")
        return self.tools(value.get("tools"), f"{path}tools")

    def _messages(self, items: Json, field: str) -> list[Message] | None:
        """All messages of a list, or None when one of them cannot be read."""
        if not isinstance(items, list) or not items:
            found = "is empty" if items == [] else f"is {kind_of(items)}"
            self._error("wrong_type", field, f"{field} {found}; give a list of messages")
            return None
        messages = [self.message(item, f"{field}[{index}]") for index, item in enumerate(items)]
        complete = [message for message in messages if message is not None]
        return complete if len(complete) == len(messages) else None

    def _pair(self, value: dict[str, Json]) -> PreferencePair | None:
        """A preference pair; its answers go by their newer or their older names."""
        prompt, tools = self._prompt_of_pair(value.get("input"))
        answers: list[Message | None] = []
        for newer, older in (_PREFERRED, _NON_PREFERRED):
            if newer in value and older in value:
                self._error("given_twice", older, f"{newer} and {older} are two names of one thing; give one")
            answers.append(self._answer(value, newer if newer in value or older not in value else older))
        preferred, non_preferred = answers
        if prompt is None or preferred is None or non_preferred is None:
            return None
        if preferred == non_preferred:
            field = _NON_PREFERRED[0] if _NON_PREFERRED[0] in value else _NON_PREFERRED[1]
            self._error(
                "identical_answers", field, "both answers are the same, so there is nothing to prefer; remove the pair"
            )
        return PreferencePair(tuple(prompt), preferred, non_preferred, tools)

    def _prompt_of_pair(self, value: Json) -> tuple[list[Message] | None, tuple[dict[str, Json], ...]]:
        if not isinstance(value, dict) or "messages" not in value:
            found = "has no messages" if isinstance(value, dict) else f"is {kind_of(value)}"
            self._error(
                "missing_field", "input", f'input {found}; give {{"messages": […]}}, the prompt of both answers'
            )
            return None, ()
        self._ignored(value, _CONVERSATION_KEYS, "input.")
        tools = self._tools_beside(value, "input.")
        messages = self._messages(value["messages"], "input.messages")
        if messages is not None and messages[-1].role == "assistant":
            self._error(
                "last_message_is_assistant",
                f"input.messages[{len(messages) - 1}].role",
                "the prompt of a pair ends with an assistant's message; end it with what is to be answered",
            )
        return messages, tools

    def _answer(self, value: dict[str, Json], field: str) -> Message | None:
        """One of a pair's answers: a list of exactly one message of the assistant."""
        if field not in value:
            self._error("missing_field", field, f"{field} is missing; give a list with one assistant message")
            return None
        messages = self._messages(value[field], field)
        if messages is None:
            return None
        if len(messages) != 1:
            self._error("wrong_length", field, f"{field} has {len(messages)} messages; give one assistant message")
        elif messages[0].role != "assistant":
            self._error("wrong_role", f"{field}[0].role", f"the answer is from {messages[0].role}; give an assistant's")
        elif not messages[0].weight:
            self._error("no_supervised_tokens", f"{field}[0].weight", "an answer of a pair has no weight 0; remove it")
        return messages[0]

    def _check_turns(self, messages: list[Message]) -> None:
        answers = [message for message in messages if message.role == "assistant"]
        if not answers:
            self._error(
                "no_assistant_message", "messages", "no message has the role assistant; add the answer to learn"
            )
        elif messages[-1].role != "assistant":
            self._error(
                "last_message_not_assistant",
                f"messages[{len(messages) - 1}].role",
                f"the last message is from {messages[-1].role}; end with the assistant's answer or remove it",
            )
        elif not any(message.weight for message in answers):
            self._error(
                "no_supervised_tokens", "messages", "every assistant message has weight 0; give at least one weight 1"
            )

    def tools(self, value: Json, field: str = "tools") -> tuple[dict[str, Json], ...]:
        if value is None:
            return ()
        if not isinstance(value, list):
            self._error("wrong_type", field, f"{field} is {kind_of(value)}; give a list of tools")
            return ()
        tools: list[dict[str, Json]] = []
        for index, tool in enumerate(value):
            function = tool.get("function") if isinstance(tool, dict) else None
            if (
                not isinstance(tool, dict)
                or not isinstance(function, dict)
                or not isinstance(function.get("name"), str)
            ):
                self._error(
                    "invalid_tool",
                    f"{field}[{index}]",
                    'a tool reads {"type": "function", "function": {"name": …, "parameters": {…}}}',
                )
            else:
                tools.append(tool)
        return tuple(tools)

    def message(self, value: Json, field: str) -> Message | None:
        if not isinstance(value, dict):
            self._error("wrong_type", field, f"a message has to be an object, this is {kind_of(value)}")
            return None
        role = value.get("role")
        if not isinstance(role, str) or role not in ROLES:
            self._error("unknown_role", f"{field}.role", _role_advice(value))
            return None
        for key in value.keys() - MESSAGE_KEYS:
            # An API's answer pasted whole carries such keys as null or []
            if value[key] not in (None, []):
                self._error(
                    "unknown_field", f"{field}.{key}", f'a message has no "{key}"; remove it or check its spelling'
                )
        calls = self._tool_calls(value, role, field)
        return Message(
            role=role,
            content=self._content(value, role, field, has_calls=bool(calls)),
            weight=self._weight(value, role, field),
            tool_calls=calls,
            tool_call_id=self._optional(value, "tool_call_id", role, ("tool",), field),
            name=self._optional(value, "name", role, ROLES, field),
            reasoning_content=self._optional(value, "reasoning_content", role, ("assistant",), field),
        )

    def _content(self, value: dict[str, Json], role: str, field: str, *, has_calls: bool) -> str | None:
        field = f"{field}.content"
        content = value.get("content")
        if isinstance(content, list):
            content = self._parts(content, field)
            if content is None:
                return None
        if isinstance(content, str):
            if role == "assistant" and not has_calls and not content.strip():
                self._error("empty_content", field, "the assistant's answer is empty; write it or remove the example")
            return content
        if content is not None:
            self._error("wrong_type", field, f"content is {kind_of(content)}; give a string")
        elif not has_calls:
            advice = "give a string, or tool_calls" if role == "assistant" else "give a string"
            self._error("missing_content", field, f"content is {'null' if 'content' in value else 'missing'}; {advice}")
        return None

    def _parts(self, parts: list[Json], field: str) -> str | None:
        texts: list[str] = []
        for index, part in enumerate(parts):
            text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
            if not isinstance(text, str):
                self._error(
                    "unsupported_content",
                    f"{field}[{index}]",
                    'only text is trained on: {"type": "text", "text": …}; remove other parts',
                )
                return None
            texts.append(text)
        return "\n".join(texts)

    def _weight(self, value: dict[str, Json], role: str, field: str) -> int:
        weight = value.get("weight")
        if weight is None:
            return 1
        if role != "assistant":
            self._error("extra_weight", f"{field}.weight", f"a {role} message has no weight; remove it")
        elif isinstance(weight, bool) or not isinstance(weight, int) or weight not in (0, 1):
            self._error(
                "invalid_weight", f"{field}.weight", f"weight is {msgspec.json.encode(weight).decode()}; give 0 or 1"
            )
        else:
            return weight
        return 1

    def _optional(self, value: dict[str, Json], key: str, role: str, roles: tuple[str, ...], field: str) -> str | None:
        text = value.get(key)
        if text is None:
            return None
        if role not in roles:
            self._error("unknown_field", f"{field}.{key}", f"a {role} message has no {key}; remove it")
        elif not isinstance(text, str):
            self._error("wrong_type", f"{field}.{key}", f"{key} is {kind_of(text)}; give a string")
        else:
            return text
        return None

    def _tool_calls(self, value: dict[str, Json], role: str, field: str) -> tuple[ToolCall, ...]:
        field = f"{field}.tool_calls"
        calls = value.get("tool_calls")
        if calls is None or calls == []:
            return ()
        if role != "assistant":
            self._error("unknown_field", field, f"a {role} message has no tool_calls; remove them")
            return ()
        if not isinstance(calls, list):
            self._error("wrong_type", field, f"tool_calls is {kind_of(calls)}; give a list")
            return ()
        read = [self._tool_call(call, f"{field}[{index}]") for index, call in enumerate(calls)]
        return tuple(call for call in read if call is not None)

    def _tool_call(self, value: Json, field: str) -> ToolCall | None:
        function = value.get("function") if isinstance(value, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(value, dict) or not isinstance(function, dict) or not isinstance(name, str):
            self._error(
                "invalid_tool_call",
                field,
                'a tool call reads {"id": …, "type": "function", "function": {"name": …, "arguments": "{…}"}}',
            )
            return None
        identifier = value.get("id")
        if identifier is not None and not isinstance(identifier, str):
            self._error("wrong_type", f"{field}.id", f"id is {kind_of(identifier)}; give a string")
            return None
        arguments = arguments_text(function.get("arguments"))
        if arguments is None:
            self._error(
                "invalid_tool_call",
                f"{field}.function.arguments",
                "arguments has to be a JSON object, as an object or as the text of one",
            )
            return None
        return ToolCall(name, arguments, identifier)


def arguments_text(arguments: Json) -> str | None:
    """A tool call's arguments as the text of a JSON object, whether they came as text or object; else None."""
    if isinstance(arguments, dict):
        return msgspec.json.encode(arguments).decode()
    if not isinstance(arguments, str):
        return None
    try:
        parsed = parse_line(arguments.encode(), 0)
    except (ValueError, AttuneError):
        return None
    return arguments if isinstance(parsed, dict) else None


def _shape_advice(value: dict[str, Json]) -> str:
    if "conversations" in value:
        return '; rename "conversations" to "messages", "from" to "role" and "value" to "content"'
    if "chosen" in value:
        return (
            '; for a preference pair give {"input": {"messages": […]}, "preferred_output": […], '
            '"non_preferred_output": […]}'
        )
    return "; add one of them"


def _role_advice(value: dict[str, Json]) -> str:
    known = ", ".join(ROLES)
    if "role" not in value:
        if "from" in value:
            return f'rename "from" to "role" and "value" to "content"; role is one of {known}'
        return f"role is missing; give one of {known}"
    if value["role"] == "function":
        return 'the role function is deprecated; use "tool" and tool_calls'
    role = value["role"]
    shown = f'"{role[:40]}"' if isinstance(role, str) else kind_of(role)
    return f"role is {shown}; use one of {known}"


_CONVERSATION_KEYS = frozenset(("messages", "tools", "parallel_tool_calls", "functions", "function_call"))
_PREFERRED = ("preferred_output", "preferred_completion")
_NON_PREFERRED = ("non_preferred_output", "non_preferred_completion")
_ANSWER_KEYS = frozenset((*_PREFERRED, *_NON_PREFERRED))
_PAIR_KEYS = _ANSWER_KEYS | {"input"}
_COMPLETION_KEYS = frozenset(("prompt", "completion"))
_TEXT_KEYS = frozenset(("text",))
EXAMPLE_KEYS = _CONVERSATION_KEYS | _PAIR_KEYS | _COMPLETION_KEYS | _TEXT_KEYS
MESSAGE_KEYS = frozenset(("role", "content", "weight", "tool_calls", "tool_call_id", "name", "reasoning_content"))


def read_messages(messages: list[Json], tools: Json = None) -> Conversation:
    """The messages of a chat request, read as a training example's are, so that both render alike.

    Raises `AttuneError` (invalid_messages) that names the field. An empty answer may stand in a history.
    """
    if not messages:
        raise AttuneError("messages is empty; give at least one", code="invalid_messages", param="messages")
    reader = _Reader(0)
    read = [reader.message(item, f"messages[{index}]") for index, item in enumerate(messages)]
    conversation = Conversation(tuple(message for message in read if message is not None), reader.tools(tools))
    for finding in reader.findings:
        if finding.severity == "error" and finding.code != "empty_content":
            raise AttuneError(f"{finding.field}: {finding.message}", code="invalid_messages", param=finding.field)
    return conversation
