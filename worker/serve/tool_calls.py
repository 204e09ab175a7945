"""Reads tool calls out of an answer's text as it comes. What is no whole call of a function that was offered stays
text, so nothing of an answer is lost.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass

from core import ids
from core.data.jsonl import Json
from core.rendering.tool_form import ToolForm


@dataclass(frozen=True)
class ToolCall:
    id: str
    name: str
    arguments: str  # the text of a JSON object


class ToolCallReader:
    """`forced`: the answer begins inside a call, behind `form.forced`. `single`: one call at most is read."""

    def __init__(self, form: ToolForm, functions: Collection[str], *, forced: bool, single: bool) -> None:
        self._form = form
        self._functions = frozenset(functions)
        self._single = single
        self._close = form.closes.strip()
        self._held = ""
        self._inside = forced
        self._after_call = False  # the closing mark may still come
        self._behind_call = False  # and nothing said since
        self._plain = False  # no call can come any more
        self._over = False  # the one call was read: what follows is not wanted
        self.calls = 0

    def feed(self, text: str) -> list[str | ToolCall]:
        """What can be said of the answer so far: texts and whole calls, in order."""
        if self._over:
            return []
        self._held += text
        made: list[str | ToolCall] = []
        while self._advance(made):
            pass
        return [part for part in made if part != ""]

    def end(self) -> list[str | ToolCall]:
        """The rest: of a call that did not come to its end, the text."""
        if self._over or (self._after_call and self._close.startswith(self._held.strip())):
            return []
        rest = (self._form.opens if self._inside and self._form.opens else "") + self._held
        self._held = ""
        return [rest] if rest.strip() or (rest and not self.calls) else []

    def _advance(self, made: list[str | ToolCall]) -> bool:
        """One step; False when more text is needed."""
        if self._plain:
            made.append(self._held)
            self._held = ""
            return False
        if self._after_call:
            return self._pass_close()
        return self._read(made) if self._inside else self._seek(made)

    def _pass_close(self) -> bool:
        rest = self._held.lstrip()
        if len(rest) < len(self._close) and self._close.startswith(rest):
            return False
        self._held = rest.removeprefix(self._close).lstrip()
        self._after_call = False
        self._behind_call = True
        self._plain = not self._form.opens
        return True

    def _seek(self, made: list[str | ToolCall]) -> bool:
        """Text up to where a call opens."""
        if self._behind_call:
            self._held = self._held.lstrip()
            self._behind_call = not self._held
        opens = self._form.opens
        if not opens:  # then a call is the whole answer
            start = self._held.lstrip()
            if start:
                self._inside = start.startswith("[" if self._form.in_list else "{")
                self._plain = not self._inside
            return bool(start)
        at = self._held.find(opens)
        if at >= 0:
            made.append(self._held[:at].rstrip())
            self._held = self._held[at + len(opens) :]
            self._inside = True
            return True
        # White space stays back, too: before a call it is no part of the text
        kept = len(self._held) - _possible(self._held, opens)
        said = self._held[:kept].rstrip()
        made.append(said)
        self._held = self._held[len(said) :]
        return False

    def _read(self, made: list[str | ToolCall]) -> bool:
        """One JSON value, and the calls that it is."""
        text = self._held.lstrip()
        try:
            value, end = _DECODER.raw_decode(text)
        except ValueError:  # not whole yet, or never
            return False
        calls = self._calls(value)
        self._inside = False
        if calls is None:
            made.append(self._form.opens + self._held[: len(self._held) - len(text) + end])
            self._held = text[end:]
            self._plain = not self._form.opens
            return True
        made += calls[:1] if self._single else calls
        self.calls += len(calls)
        self._held = text[end:]
        self._after_call = True
        self._over = self._single
        return not self._over

    def _calls(self, value: Json) -> list[ToolCall] | None:
        """None when one of them is none."""
        made: list[ToolCall] = []
        for item in value if isinstance(value, list) else [value]:
            name = item.get(self._form.name_key) if isinstance(item, dict) else None
            arguments = item.get(self._form.arguments_key) if isinstance(item, dict) else None
            if name not in self._functions or not isinstance(arguments, dict):
                return None
            # Where the template shows ids, it wants them of nine letters and digits when they come back
            own = ids.random_text(9) if self._form.id_key else "call_" + ids.random_text(24)
            made.append(ToolCall(own, str(name), json.dumps(arguments, ensure_ascii=False)))
        return made or None


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_number)


def _possible(text: str, mark: str) -> int:
    """Length of the longest end of the text that may be the beginning of the mark."""
    return next((n for n in range(min(len(text), len(mark) - 1), 0, -1) if mark.startswith(text[-n:])), 0)
