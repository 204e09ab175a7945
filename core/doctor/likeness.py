"""Examples that say the same: equal up to case and blanks by a hash, nearly the same by MinHash.

Memory is bounded: eight bytes' worth of hash for an exact look, 256 for a near one, and a limit to how many.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

import numpy as np
import rensa
from numpy.typing import NDArray

from core.data.conversation import Completion, Conversation, Example, Message, PreferencePair

MAX_EXACT = 5_000_000  # examples
MAX_NEAR = 200_000
NEAR = 0.85  # estimated Jaccard similarity of their shingles
_PERMUTATIONS = 64
_BANDS = 16  # of four rows: at 0.85 similar, 1 - (1 - 0.85^4)^16 = 0.99999 share one
_SHINGLE = 3  # words
_MAX_WORDS = 4000
_MIN_WORDS = 12  # a shorter text is alike by chance
_BLANKS = re.compile(r"\s+")
_WORD = re.compile(r"\w+")


def _parts(example: Example) -> tuple[list[str], list[str]]:
    """(what is asked, what is answered), each part with its role."""
    if isinstance(example, Conversation):
        turns = [_turn(message) for message in example.messages]
        return turns[:-1], turns[-1:]
    if isinstance(example, Completion):
        return [example.prompt], [example.completion]
    if isinstance(example, PreferencePair):
        asked = [_turn(message) for message in example.messages]
        return asked, [_turn(example.preferred), _turn(example.non_preferred)]
    return [], [example.text]


def _turn(message: Message) -> str:
    calls = "".join(f"{call.name}{call.arguments}" for call in message.tool_calls)
    return f"{message.role}\x1f{message.content or ''}{calls}"


def _hash(parts: list[str]) -> int:
    text = "\x1e".join(_BLANKS.sub(" ", part.strip()).casefold() for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest())


def key_of(example: Example) -> int:
    """Equal for examples that are equal up to case and blanks."""
    asked, answered = _parts(example)
    return _hash([*asked, "\x1d", *answered])


def question_of(example: Example) -> int | None:
    """Equal for examples with one prompt; None for a raw text."""
    asked, _ = _parts(example)
    return _hash(asked) if asked else None


class Nearness:
    """Signatures of examples by their lines, and the pairs among them that are nearly the same."""

    def __init__(self) -> None:
        self._lines: list[int] = []
        self._blocks: list[NDArray[np.uint32]] = []

    @property
    def is_full(self) -> bool:
        return len(self._lines) >= MAX_NEAR

    def add(self, line: int, example: Example) -> None:
        """Takes an example unless it is short, or there are too many already."""
        if self.is_full:
            return
        asked, answered = _parts(example)
        # the system text is most of a short example and the same in all
        texts = [part for part in (*asked, *answered) if not part.startswith(("system\x1f", "developer\x1f"))]
        words = _WORD.findall(" ".join(texts).casefold())[:_MAX_WORDS]
        if len(words) < _MIN_WORDS:
            return
        shingles = {" ".join(words[i : i + _SHINGLE]) for i in range(len(words) - _SHINGLE + 1)}
        sketch = rensa.RMinHash(_PERMUTATIONS, 1)  # pyright: ignore[reportAttributeAccessIssue]  (it re-exports by *)
        sketch.update(list(shingles))
        self._lines.append(line)
        self._blocks.append(np.array(sketch.digest(), dtype=np.uint32))

    def pairs(self) -> Iterator[tuple[int, int]]:
        """(line, earlier line that it is nearly the same as), each line once, in order."""
        if not self._lines:
            return
        signatures = np.stack(self._blocks)  # [N examples, P permutations]
        self._blocks.clear()
        earlier = np.full(len(signatures), -1, dtype=np.int64)
        width = _PERMUTATIONS // _BANDS
        for band in range(_BANDS):
            rows = np.ascontiguousarray(signatures[:, band * width : (band + 1) * width])
            _, first, inverse = np.unique(
                rows.view([("", rows.dtype)] * width).ravel(), return_index=True, return_inverse=True
            )
            candidate = first[inverse]  # the first example with this band, which may be the example itself
            open_ = (earlier < 0) & (candidate < np.arange(len(signatures)))
            index = np.flatnonzero(open_)
            alike = (signatures[index] == signatures[candidate[index]]).mean(axis=1) >= NEAR
            earlier[index[alike]] = candidate[index[alike]]
        for index in np.flatnonzero(earlier >= 0):
            yield self._lines[index], self._lines[earlier[index]]
