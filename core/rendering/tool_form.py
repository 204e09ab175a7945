"""How a chat template writes an assistant's tool calls, learnt by rendering some through it: so an answer's text can
be read back into calls, and held to them. No family is known by name here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from core.data.jsonl import Json
from core.errors import InvalidExample
from core.rendering.chat_template import TextRenderer

_NAME = "attune_probe"
_ARGUMENTS: dict[str, Json] = {"city": "Oslo"}
_CITY: dict[str, Json] = {"type": "string", "description": "A city."}
_TOOL: dict[str, Json] = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "A probe.",
        "parameters": {"type": "object", "properties": {"city": _CITY}},
    },
}
_IDS = ("call00001", "call00002")  # nine letters and digits: Mistral's templates insist on it


@dataclass(frozen=True)
class ToolForm:
    """Calls as JSON objects, each between `opens` and `closes`, or all in one list between them.

    The texts are as an answer shows them, without special tokens; `forced` is what leads to the JSON, with them.
    """

    opens: str
    closes: str
    in_list: bool
    keys: tuple[str, ...]  # of the object, in their order
    name_key: str
    arguments_key: str
    id_key: str | None
    between: str | None  # two calls; None: the template shows one at most
    forced: str


def learn(
    text: TextRenderer, *, arguments_as_text: bool, stops: Sequence[str], shown: Callable[[str], str]
) -> ToolForm | None:
    """None where the template does not show functions to the model, or writes calls as something else than JSON.

    `stops`: texts that end a turn; `shown`: a text as an answer shows it, without special tokens.
    """
    question: dict[str, Json] = {"role": "user", "content": "attune question"}

    def answer(calls: int) -> str | None:
        arguments: Json = json.dumps(_ARGUMENTS) if arguments_as_text else _ARGUMENTS
        made: list[Json] = [
            {"id": one, "type": "function", "function": {"name": _NAME, "arguments": arguments}} for one in _IDS[:calls]
        ]
        try:
            prompt = text.render([question], [_TOOL], prompt=True)
            reply: dict[str, Json] = {"role": "assistant", "content": "", "tool_calls": made}
            whole = text.render([question, reply], [_TOOL], prompt=False)
        except InvalidExample:
            return None
        if _NAME not in prompt or not whole.startswith(prompt):
            return None
        said = whole[len(prompt) :]
        return said[: min((at for stop in stops if (at := said.find(stop)) >= 0), default=len(said))]

    raw = answer(1)
    if raw is None:
        return None
    said = shown(raw)
    found, of_raw = _find(said), _find(raw)
    if found is None or of_raw is None:
        return None
    start, end, value = found
    call = value[0] if isinstance(value, list) else value
    if not isinstance(call, dict):
        return None
    name_key = next((key for key, item in call.items() if item == _NAME), None)
    arguments_key = next((key for key, item in call.items() if item == _ARGUMENTS), None)
    if name_key is None or arguments_key is None:
        return None
    both = answer(2)
    return ToolForm(
        # A thought that the template writes before every answer is no part of the call
        opens=said[:start].rsplit("</think>", 1)[-1].strip(),
        closes=said[end:].rstrip(),
        in_list=isinstance(value, list),
        keys=tuple(call),
        name_key=name_key,
        arguments_key=arguments_key,
        id_key=next((key for key, item in call.items() if item == _IDS[0]), None),
        between=None if both is None else _between(shown(both)),
        forced=raw[: of_raw[0]],
    )


def _find(said: str) -> tuple[int, int, Json] | None:
    """Where the JSON stands that names the function, and what it says."""
    decoder = json.JSONDecoder()
    for start in (at for at, letter in enumerate(said) if letter in "[{"):
        try:
            value, end = decoder.raw_decode(said, start)
        except ValueError:
            continue
        if _NAME in said[start:end]:
            return start, end, value
    return None


def _between(both: str) -> str | None:
    """What stands between the first call's JSON and the second's; for a list, what its items are divided by."""
    first = _find(both)
    if first is None:
        return None
    if isinstance(first[2], list):
        return ", "
    second = _find(both[first[1] :])
    return both[first[1] :][: second[0]] if second else None
