"""Repairs of a file: each says what it changes and shows a few lines before and after; together they make a new file.

A repair takes a line's object and gives it back changed, or None where the line goes. Those that compare lines or
count tokens come after those that change texts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import cast, get_args

import msgspec

from core.data.example_reader import EXAMPLE_KEYS, MESSAGE_KEYS, read_line
from core.data.jsonl import Fault, Json, parse_line
from core.doctor import personal
from core.doctor.checks import CONTROLS, KNOWN_TOKENS
from core.doctor.likeness import MAX_EXACT, Nearness, key_of
from core.doctor.lines import Told, lines_of
from core.doctor.mapping import rename_turn
from core.doctor.orders import Repair, RepairName
from core.doctor.report import keys_of
from core.doctor.tokens import length_of, renderer_of
from core.errors import AttuneError

ORDER: tuple[RepairName, ...] = get_args(RepairName)
MAX_SAMPLES = 5
MAX_SHOWN_CHARS = 2000
Object = dict[str, Json]
Change = Callable[[Object], Object | None]
Keep = Callable[[bytes, int], bool]  # of a line as it is by then
_MESSAGE_LISTS = ("messages", "preferred_output", "preferred_completion", "non_preferred_output",
                  "non_preferred_completion")  # fmt: skip
_TEXTS = ("prompt", "completion", "text")


def repair(order: Repair, told: Told) -> dict[str, object]:
    """The `result` of a repair, less the new file's id. Raises AttuneError (nothing_left, invalid_file_format)."""
    return _Mending(order, told).result()


class _Mending:
    def __init__(self, order: Repair, told: Told) -> None:
        self._order = order
        self._told = told
        self._steps: list[RepairName] = [name for name in ORDER if name in order.repairs]
        self._changed = dict.fromkeys(self._steps, 0)
        self._dropped = dict.fromkeys(self._steps, 0)
        self._samples: dict[RepairName, list[dict[str, object]]] = {name: [] for name in self._steps}
        validation = order.validation if "drop_validation_overlap" in self._steps else None
        self._validation = keys_of(validation, told) if validation else set[int]()
        self._near: set[int] = set()

    def result(self) -> dict[str, object]:
        begin = 0.1 if self._validation else 0.0
        if "drop_near_duplicates" in self._steps:
            self._near = self._find_near(begin)
            begin = 0.5
        lines = kept = changed = 0
        changes, keeps = self._changes(), self._keeps()
        with open(self._order.out or os.devnull, "wb") as out:
            for number, line in lines_of(self._order.path, self._told, "writing", begin, 1.0):
                lines += 1
                mended = self._mend(line, number, changes, keeps)
                if mended is None:
                    continue
                kept += 1
                changed += mended != line
                out.write(mended + b"\n")
        if not kept and self._order.out:
            raise AttuneError("The repairs would leave no example; choose fewer.", code="nothing_left", param="repairs")
        return {
            "lines": lines,
            "lines_after": kept,
            "changed": changed,
            "dropped": lines - kept,
            "repairs": [
                {
                    "repair": name,
                    "changed": self._changed[name],
                    "dropped": self._dropped[name],
                    "samples": self._samples[name],
                }
                for name in self._steps
            ],
        }

    def _mend(
        self, line: bytes, number: int, changes: dict[RepairName, Change], keeps: dict[RepairName, Keep]
    ) -> bytes | None:
        """The line as it is after all repairs; None when one of them drops it."""
        parsed = parse_line(line, number)
        now = line.rstrip(b"\r")
        for name, change in changes.items():
            if isinstance(parsed, Fault):  # a key twice, a number out of range: nothing is changed in such a line
                break
            made = change(parsed)
            if made == parsed:
                continue
            after = None if made is None else msgspec.json.encode(made)
            self._note(name, number, now, after)
            if made is None or after is None:
                return None
            parsed, now = made, after
        for name, keep in keeps.items():
            if not keep(now, number):
                self._note(name, number, now, None)
                return None
        return now

    def _note(self, name: RepairName, number: int, before: bytes, after: bytes | None) -> None:
        counts = self._dropped if after is None else self._changed
        counts[name] += 1
        if len(self._samples[name]) < MAX_SAMPLES:
            shown = None if after is None else _shown(after)
            self._samples[name].append({"line": number, "before": _shown(before), "after": shown})

    def _changes(self) -> dict[RepairName, Change]:
        tokens = KNOWN_TOKENS
        if self._order.base and (controls := renderer_of(self._order.base).control_texts):
            tokens = re.compile("|".join(re.escape(text) for text in sorted(controls, key=len, reverse=True)))
        known: dict[RepairName, Change] = {
            "rename_roles": _rename_roles,
            "drop_unknown_fields": _drop_unknown_fields,
            "remove_control_characters": _on_texts(lambda text: CONTROLS.sub("", text)),
            "trim_whitespace": _on_texts(str.strip, in_turns_alone=True),
            "remove_special_tokens": _on_texts(lambda text: _without(tokens, text)),
            "mask_personal_data": _on_texts(personal.mask),
            "drop_empty_turns": _on_turns(_without_empty),
            "merge_turns": _on_turns(_merged),
            "end_with_assistant": _end_with_assistant,
        }
        return {name: known[name] for name in self._steps if name in known}

    def _keeps(self, *, with_near: bool = True) -> dict[RepairName, Keep]:
        seen: set[int] = set()

        def is_new(line: bytes, number: int) -> bool:
            key = _key(line, number)
            is_first = key is None or key not in seen
            if key is not None and len(seen) < MAX_EXACT:
                seen.add(key)
            return is_first

        known: dict[RepairName, Keep] = {
            "drop_faulty": self._is_sound,
            "drop_too_long": self._fits,
            "drop_duplicates": is_new,
            "drop_near_duplicates": lambda _, number: number not in self._near,
            "drop_validation_overlap": lambda line, number: _key(line, number) not in self._validation,
        }
        return {
            name: known[name] for name in self._steps if name in known and (with_near or name != "drop_near_duplicates")
        }

    def _is_sound(self, line: bytes, number: int) -> bool:
        """It can be trained on; with a base, by its template too."""
        example, _ = read_line(line, number)
        if example is None or self._order.base is None:
            return example is not None
        return length_of(renderer_of(self._order.base), example) is not None

    def _fits(self, line: bytes, number: int) -> bool:
        assert self._order.base is not None
        example, _ = read_line(line, number)
        length = None if example is None else length_of(renderer_of(self._order.base), example)
        return length is None or length <= self._order.max_tokens

    def _find_near(self, begin: float) -> set[int]:
        """The lines that are nearly an earlier one, as they are after the other repairs."""
        nearness = Nearness()
        changes, keeps = self._changes(), self._keeps(with_near=False)
        for number, line in lines_of(self._order.path, self._told, "duplicates", begin, 0.5):
            mended = self._mend(line, number, changes, keeps)
            example = None if mended is None else read_line(mended, number)[0]
            if example is not None:
                nearness.add(number, example)
        for name in self._steps:  # what was noted on the way is noted again by the pass that writes
            self._changed[name] = self._dropped[name] = 0
            self._samples[name].clear()
        return {line for line, _ in nearness.pairs()}


def _key(line: bytes, number: int) -> int | None:
    example, _ = read_line(line, number)
    return None if example is None else key_of(example)


def _shown(line: bytes) -> str:
    text = line.decode(errors="replace")
    return text if len(text) <= MAX_SHOWN_CHARS else text[:MAX_SHOWN_CHARS] + "…"


def _without(tokens: re.Pattern[str], text: str) -> str:
    while (shorter := tokens.sub("", text)) != text:  # what is left may be a token again
        text = shorter
    return text


def _turn_lists(value: Object) -> list[tuple[Object, str]]:
    """(owner, key) of every list of messages within."""
    found = [(value, key) for key in _MESSAGE_LISTS if isinstance(value.get(key), list)]
    inner = value.get("input")
    if isinstance(inner, dict) and isinstance(inner.get("messages"), list):
        found.append((inner, "messages"))
    return found


def _copy(value: Object) -> Object:
    return cast(Object, msgspec.json.decode(msgspec.json.encode(value)))


def _on_texts(change: Callable[[str], str], *, in_turns_alone: bool = False) -> Change:
    def changed(value: Object) -> Object:
        made = _copy(value)
        for owner, key in _turn_lists(made):
            for turn in cast("list[Json]", owner[key]):
                if isinstance(turn, dict):
                    _change_content(turn, change)
        if not in_turns_alone:  # a completion's first blank parts it from its prompt
            for key in _TEXTS:
                if isinstance(text := made.get(key), str):
                    made[key] = change(text)
        return made

    return changed


def _change_content(turn: Object, change: Callable[[str], str]) -> None:
    for key in ("content", "reasoning_content"):
        content = turn.get(key)
        if isinstance(content, str):
            turn[key] = change(content)
        elif isinstance(content, list):
            for part in content:
                if isinstance(part, dict) and isinstance(text := part.get("text"), str):
                    part["text"] = change(text)


def _on_turns(change: Callable[[list[Json]], list[Json]]) -> Change:
    def changed(value: Object) -> Object | None:
        made = _copy(value)
        for owner, key in _turn_lists(made):
            turns = change(cast("list[Json]", owner[key]))
            if not turns:
                return None
            owner[key] = turns
        return made

    return changed


def _is_empty(turn: Json) -> bool:
    if not isinstance(turn, dict) or turn.get("tool_calls") or turn.get("role") == "tool":
        return False
    content = turn.get("content")
    return content is None or content == [] or (isinstance(content, str) and not content.strip())


def _without_empty(turns: list[Json]) -> list[Json]:
    return [turn for turn in turns if not _is_empty(turn)]


def _merged(turns: list[Json]) -> list[Json]:
    made: list[Json] = []
    for turn in turns:
        last = made[-1] if made else None
        if isinstance(turn, dict) and isinstance(last, dict) and _may_merge(last, turn):
            last["content"] = f"{last['content']}\n\n{turn['content']}"
        else:
            made.append(turn)
    return made


def _may_merge(first: Object, second: Object) -> bool:
    """Turns of one role that are text and nothing else, or nothing but alike."""
    beside_first, beside_second = ({k: v for k, v in turn.items() if k != "content"} for turn in (first, second))
    texts = isinstance(first.get("content"), str) and isinstance(second.get("content"), str)
    role = first.get("role")
    return texts and role in ("user", "assistant", "system") and "tool_calls" not in first and (
        beside_first == beside_second
    )  # fmt: skip


def _end_with_assistant(value: Object) -> Object | None:
    turns = value.get("messages")
    if not isinstance(turns, list):
        return value
    last = max((i for i, turn in enumerate(turns) if isinstance(turn, dict) and turn.get("role") == "assistant"),
               default=None)  # fmt: skip
    return value if last is None or last == len(turns) - 1 else {**value, "messages": turns[: last + 1]}


def _rename_roles(value: Object) -> Object:
    made = _copy(value)
    if "messages" not in made and isinstance(made.get("conversations"), list):
        made["messages"] = made.pop("conversations")
    for owner, key in _turn_lists(made):
        owner[key] = [rename_turn(turn) for turn in cast("list[Json]", owner[key])]
    return made


def _drop_unknown_fields(value: Object) -> Object:
    made = {key: held for key, held in _copy(value).items() if key in EXAMPLE_KEYS}
    for owner, key in _turn_lists(made):
        owner[key] = [
            {name: held for name, held in turn.items() if name in MESSAGE_KEYS} if isinstance(turn, dict) else turn
            for turn in cast("list[Json]", owner[key])
        ]
    return made
