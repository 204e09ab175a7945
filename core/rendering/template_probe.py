"""What a chat template does, found by rendering small conversations through it rather than by reading it.

The answers decide how examples are rendered: what ends a turn, whether a turn is opened for generation, and in
which form a tool call's arguments are wanted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from core.data.jsonl import Json
from core.errors import InvalidExample
from core.rendering.chat_template import TextRenderer

_QUESTION = "attune question"
_ANSWER = "attune answer"
_TOOL: dict[str, Json] = {
    "type": "function",
    "function": {
        "name": "attune_probe",
        "description": "A probe.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "A city."}}},
    },
}


@dataclass(frozen=True)
class Probe:
    """What one question and its answer look like in a template."""

    behind_answer: str  # the text that follows the answer
    forced_think: str  # end of the generation prompt that forces a thought which no shown answer has; usually empty
    opens_turn: bool  # the generation prompt leads to where the answer begins


def probe_turn(text: TextRenderer) -> Probe | None:
    """None when the template refuses a question with an answer, or does not show the answer's text."""
    question: dict[str, Json] = {"role": "user", "content": _QUESTION}
    answer: dict[str, Json] = {"role": "assistant", "content": _ANSWER}
    try:
        plain = text.render([question], (), prompt=False)
        prompt = text.render([question], (), prompt=True)
        whole = text.render([question, answer], (), prompt=False)
    except InvalidExample:
        return None
    if _ANSWER not in whole:
        return None
    at = whole.rindex(_ANSWER)
    shared = next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(prompt))
    rest = prompt[shared:]
    # The same text with and without a generation prompt: then only space may stand before the answer
    opens_turn = prompt != plain or not whole[len(prompt) : at].strip()
    return Probe(whole[at + len(_ANSWER) :], rest if "<think>" in rest else "", opens_turn)


def shows_arguments(text: TextRenderer, *, as_text: bool) -> bool:
    """Whether the template writes a tool call's arguments as JSON when given them as text, or as an object."""
    arguments: dict[str, Json] = {"city": "Oslo"}
    function: dict[str, Json] = {
        "name": "attune_probe",
        "arguments": json.dumps(arguments) if as_text else arguments,
    }
    # Nine letters and digits: Mistral's templates insist on it
    call: dict[str, Json] = {"id": "call00001", "type": "function", "function": function}
    messages: list[dict[str, Json]] = [
        {"role": "user", "content": _QUESTION},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]
    try:
        shown = text.render(messages, [_TOOL], prompt=False)
    except InvalidExample:
        return False
    return '"city":"Oslo"' in shown.replace(" ", "")
