"""A line before and after its repair, with what goes and what comes marked in both."""

from __future__ import annotations

import re
from collections.abc import Callable
from difflib import SequenceMatcher
from typing import TypeAlias

from api.dashboard.blocks import tag, text
from api.dashboard.doctor.example_view import parts_of, show_line

Stretch: TypeAlias = tuple[str, str]  # element, text
_WORDS = re.compile(r"\w+|\W")  # compared word by word: letter by letter would take seconds
BLANKS = str.maketrans({" ": "␣", "\n": "↵", "\t": "⇥"})  # a blank that goes is seen


def show_change(before: str, after: str | None) -> None:
    """Turn by turn where the turns are the same ones, else as the lines that they are."""
    if after is None:
        _side("Before", lambda: show_line(before))
        _side("After", lambda: text("p", "Removed", "quiet"))
        return
    if before == after:  # both were cut before the place
        _side("Before", lambda: show_line(before))
        _side("After", lambda: text("p", "What changes lies beyond the part that is shown.", "quiet"))
        return
    old, new = parts_of(before), parts_of(after)
    if [name for name, _ in old] != [name for name, _ in new] or old == new:
        old, new = [("", before)], [("", after)]
    pairs = [(name, _compared(words, other)) for (name, words), (_, other) in zip(old, new, strict=True)]
    _side("Before", lambda: _show_parts([(name, goes) for name, (goes, _) in pairs]))
    _side("After", lambda: _show_parts([(name, comes) for name, (_, comes) in pairs]))


def _side(title: str, show: Callable[[], object]) -> None:
    with tag("div"):
        text("h3", title, "small")
        show()


def _compared(before: str, after: str) -> tuple[list[Stretch], list[Stretch]]:
    """Both texts in stretches: what the other has not is deleted, or inserted."""
    old, new = _WORDS.findall(before), _WORDS.findall(after)
    goes: list[Stretch] = []
    comes: list[Stretch] = []
    for kind, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            goes.append(("span", "".join(old[a:b])))
            comes.append(("span", "".join(new[c:d])))
            continue
        if b > a:
            goes.append(("del", "".join(old[a:b]).translate(BLANKS)))
        if d > c:
            comes.append(("ins", "".join(new[c:d]).translate(BLANKS)))
    return goes, comes


def _show_parts(parts: list[tuple[str, list[Stretch]]]) -> None:
    for name, stretches in parts:
        with tag("div", "turn" if name else ""):
            if name:
                text("span", name, "quiet small")
            with tag("p", "said-words" if name else "said-words line"):
                for element, words in stretches:
                    text(element, words)
