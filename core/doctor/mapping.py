"""Which columns hold what: the forms that people's data has are recognised, and a row becomes an example of ours."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import cast

from core.data.jsonl import Json, kind_of
from core.doctor.orders import Mapping, Shape
from core.doctor.tables import Cells
from core.errors import AttuneError

# shape -> (parts it has to have, parts it may have)
PARTS: dict[Shape, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "messages": (("messages",), ("tools",)),
    "sharegpt": (("conversations",), ("system", "tools")),
    "alpaca": (("instruction", "output"), ("input", "system", "history")),
    "chat": (("user", "assistant"), ("system",)),
    "completion": (("prompt", "completion"), ()),
    "preference": (("chosen", "rejected"), ("prompt", "system")),
    "text": (("text",), ()),
}
# Column names as people write them, lower-cased; of a form the first that has all it needs is taken
_NAMES: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "conversation", "dialog", "dialogue", "chat"),
    "conversations": ("conversations", "conversation"),
    "tools": ("tools", "functions"),
    "system": ("system", "system_prompt", "system prompt", "system_message"),
    "instruction": ("instruction",),
    "input": ("input", "context"),
    "output": ("output", "response"),
    "history": ("history",),
    "user": ("user", "question", "query", "human", "frage", "customer", "prompt", "input", "instruction", "request"),
    "assistant": ("assistant", "answer", "response", "reply", "antwort", "agent", "bot", "gpt", "output", "target"),
    "prompt": ("prompt", "input", "question"),
    "completion": ("completion",),
    "chosen": ("chosen", "preferred_output", "preferred_completion", "preferred"),
    "rejected": ("rejected", "non_preferred_output", "non_preferred_completion", "non_preferred"),
    "text": ("text", "content", "document"),
}
_ORDER: tuple[Shape, ...] = ("preference", "messages", "sharegpt", "completion", "alpaca", "chat", "text")
ROLE_NAMES = {
    "human": "user", "user": "user", "customer": "user", "prompter": "user",
    "gpt": "assistant", "assistant": "assistant", "bot": "assistant", "chatgpt": "assistant", "model": "assistant",
    "ai": "assistant", "agent": "assistant",
    "system": "system", "developer": "developer",
    "tool": "tool", "function_response": "tool", "observation": "tool",
}  # fmt: skip


class RowFault(Exception):
    """The row gives no example. `column` is where it lacks something."""

    def __init__(self, code: str, message: str, column: str | None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.column = column


def check(mapping: Mapping, columns: Sequence[str]) -> None:
    """Raises AttuneError (invalid_value, unknown_column) for a mapping that does not fit these columns."""
    required, optional = PARTS[mapping.shape]
    for part in required:
        if part not in mapping.columns:
            raise AttuneError(
                f"The shape '{mapping.shape}' needs a column for {part!r}; there are: {_listed(columns)}.",
                code="invalid_value",
                param=f"mapping.columns.{part}",
            )
    for part, column in mapping.columns.items():
        if part not in (*required, *optional):
            raise AttuneError(
                f"The shape '{mapping.shape}' has no part {part[:60]!r}; it has {', '.join((*required, *optional))}.",
                code="invalid_value",
                param="mapping.columns",
            )
        if column not in columns:
            raise AttuneError(
                f"There is no column {column[:100]!r}; there are: {_listed(columns)}.",
                code="unknown_column",
                param=f"mapping.columns.{part}",
            )


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(columns)[:400] or "none"


def recognise(columns: Sequence[str], sample: Sequence[Cells]) -> Mapping | None:
    """The form of well-known column names, which the first rows have to bear out; None where none is."""
    lowered: dict[str, str] = {}
    for name in columns:
        lowered.setdefault(name.strip().lower(), name)
    for shape in _ORDER:
        required, optional = PARTS[shape]
        found: dict[str, str] = {}
        for part in (*required, *optional):
            names = (name for name in _NAMES[part] if name in lowered and lowered[name] not in found.values())
            if (name := next(names, None)) is not None:
                found[part] = lowered[name]
        if not all(part in found for part in required):
            continue
        mapping = Mapping(shape, found)
        if shape == "text" and len(columns) > 1:
            continue  # a column beside it may well be the answer: that is for a person to say
        if _bears_out(mapping, sample):
            return mapping
    return None


def _bears_out(mapping: Mapping, sample: Sequence[Cells]) -> bool:
    if not sample:
        return True
    good = 0
    for cells in sample:
        try:
            to_example(cells, mapping)
        except RowFault:
            continue
        good += 1
    return 2 * good >= len(sample)


def to_example(cells: Cells, mapping: Mapping) -> dict[str, Json]:
    """A row as a line of our JSONL. Raises RowFault when no example can be made of it."""
    row = {part: cells.get(column) for part, column in mapping.columns.items()}
    if not any(_is_there(value) for value in row.values()):
        raise RowFault("empty_row", "the row has no text in the chosen columns and is left out", None)
    made = _example(row, mapping)
    if mapping.shape in ("messages", "sharegpt") and _is_there(row.get("tools")):
        made["tools"] = _structure(row["tools"])
    return made


def _example(row: Cells, mapping: Mapping) -> dict[str, Json]:
    columns = mapping.columns
    shape = mapping.shape
    if shape == "text":
        return {"text": _text(row["text"])}
    if shape == "completion":
        return {"prompt": _text(row["prompt"]), "completion": _text(row["completion"])}
    if shape == "preference":
        return _pair(row, mapping)
    if shape in ("messages", "sharegpt"):
        part = "messages" if shape == "messages" else "conversations"
        turns = _turns(row[part], columns[part], renames=shape == "sharegpt")
        return {"messages": _opened(row, mapping, turns)}
    turns: list[Json] = []
    if shape == "alpaca":
        for pair in _history(row.get("history"), columns.get("history")):
            turns += [_turn("user", pair[0]), _turn("assistant", pair[1])]
        asked, answer = _text(row["instruction"]), row["output"]
        if _is_there(row.get("input")):
            asked = f"{asked}\n\n{_text(row['input'])}".strip()
    else:
        asked, answer = _text(row["user"]), row["assistant"]
    turns += [_turn("user", asked), _turn("assistant", _text(answer))]
    return {"messages": _opened(row, mapping, turns)}


def _opened(row: Cells, mapping: Mapping, turns: list[Json]) -> list[Json]:
    """The turns behind a system message, where the row or the mapping has one and they have none."""
    first = turns[0] if turns else None
    has_one = isinstance(first, dict) and first.get("role") in ("system", "developer")
    text = _text(row.get("system")) if _is_there(row.get("system")) else mapping.system_text
    return turns if has_one or not text else [_turn("system", text), *turns]


def _pair(row: Cells, mapping: Mapping) -> dict[str, Json]:
    columns = mapping.columns
    chosen, rejected = _answers(row["chosen"], columns["chosen"]), _answers(row["rejected"], columns["rejected"])
    prompt = _prompt(row.get("prompt"), columns.get("prompt"))
    if not prompt:  # both answers are whole conversations: what they share is the prompt
        shared = 0
        while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
            shared += 1
        prompt = chosen[:shared]
        if not prompt:
            raise RowFault("missing_prompt", "the row has no prompt; choose the column that holds it", None)
    return {
        "input": {"messages": _opened(row, mapping, prompt)},
        "preferred_output": chosen[-1:],
        "non_preferred_output": rejected[-1:],
    }


def _prompt(value: Json, column: str | None) -> list[Json]:
    value = _structure(value)
    if isinstance(value, dict) and "messages" in value:
        value = value["messages"]
    if isinstance(value, list):
        return _turns(value, column, renames=True)
    return [_turn("user", _text(value))] if _is_there(value) else []


def _answers(value: Json, column: str) -> list[Json]:
    value = _structure(value)
    if isinstance(value, dict):
        value = [value]
    if isinstance(value, list):
        return _turns(value, column, renames=True)
    return [_turn("assistant", _text(value))]


def _turns(value: Json, column: str | None, *, renames: bool) -> list[Json]:
    value = _structure(value)
    if not isinstance(value, list) or not value:
        raise RowFault("wrong_type", f"this is {kind_of(value)}; a list of messages is needed", column)
    turns = [rename_turn(turn) if renames or _is_foreign(turn) else turn for turn in value]
    if not any(isinstance(turn, dict) and "role" in turn for turn in turns):
        raise RowFault("wrong_type", "the list holds no messages with a role", column)
    return turns


def _is_foreign(turn: Json) -> bool:
    return isinstance(turn, dict) and ("from" in turn or turn.get("role") in ROLE_NAMES)


def rename_turn(turn: Json) -> Json:
    """A turn in our words: `from` and `value`, and roles by the names that others give them."""
    if not isinstance(turn, dict):
        return turn
    made: dict[str, Json] = {}
    for key, held in turn.items():
        made[{"from": "role", "value": "content"}.get(key, key) if "role" not in turn else key] = held
    role = made.get("role")
    if isinstance(role, str):
        made["role"] = ROLE_NAMES.get(role.strip().lower(), role)
    return made


def _history(value: Json, column: str | None) -> list[tuple[str, str]]:
    value = _structure(value)
    if not _is_there(value):
        return []
    pairs = value if isinstance(value, list) else None
    if pairs is None or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise RowFault("wrong_type", "history has to be a list of [question, answer]", column)
    return [(_text(pair[0]), _text(pair[1])) for pair in cast("list[list[Json]]", pairs)]


def _structure(value: Json) -> Json:
    """A cell of a text table may hold a list or an object as JSON."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return cast(Json, json.loads(value))
        except (ValueError, RecursionError):
            return value
    return value


def _turn(role: str, content: str) -> dict[str, Json]:
    return {"role": role, "content": content}


def _is_there(value: Json) -> bool:
    return value not in (None, [], {}) and not (isinstance(value, str) and not value.strip())


def _text(value: Json) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
