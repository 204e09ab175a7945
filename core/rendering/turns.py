"""A conversation's text to token ids and a mask: each answered turn is supervised from the token behind the prompt as
it is served to the end-of-turn token.

Where a turn lies is told by the control tokens, which are counted in the text and in its ids; only where that does
not settle it does the tokenizer work out the place of every token, which takes it a quarter longer.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import compress, count

from tokenizers import Tokenizer

from core.errors import TemplateRefused

_REMEMBERED = 64  # ends of prompts, nearly all of which are the template's own words


@dataclass(frozen=True)
class Rendered:
    """One sequence to train on. `mask[i]` is True where the loss of predicting `token_ids[i]` counts; never at 0."""

    token_ids: list[int]
    mask: list[bool]


@dataclass(frozen=True)
class Turn:
    """A supervised turn as text: what is served, and what is to be answered."""

    prompt: str
    answer: str  # with the end-of-turn token, and what the template writes behind it
    stop: int  # where in the answer the end-of-turn token begins
    end: int  # behind it


class TurnMasks:
    """What one tokenizer makes of turns. Thread-safe."""

    def __init__(self, tokenizer: Tokenizer, special_ids: frozenset[int], stop_ids: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._special_ids = special_ids
        self._stop_ids = stop_ids
        named = {tokenizer.id_to_token(number): number for number in special_ids | stop_ids}
        self._controls = {text: number for text, number in named.items() if text}
        longest_first = sorted(self._controls, key=len, reverse=True)
        self._control = re.compile("|".join(re.escape(text) for text in longest_first) or r"(?!)")
        self._control_ids = frozenset(self._controls.values())
        self._end_of_prompt = lru_cache(maxsize=_REMEMBERED)(self.encode)

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids

    def render(self, text: str, turns: Sequence[Turn]) -> Rendered | None:
        """One rendering for several turns; None where it does not begin as each turn is served.

        Raises `TemplateRefused` where the text of an end-of-turn token becomes other tokens.
        """
        if not all(text.startswith(turn.prompt + turn.answer[: turn.end]) for turn in turns):
            return None
        ids = self.encode(text)
        spans = self.spans_by_controls(text, ids, turns)
        if spans is None:
            spans = self.spans_by_offsets(text, turns)
        return None if spans is None else self.supervise(ids, spans)

    def supervise(self, ids: list[int], spans: Sequence[tuple[int, int]]) -> Rendered:
        mask = [False] * len(ids)
        for start, end in spans:
            mask[start:end] = [True] * (end - start)
        mask[0] = False
        return Rendered(ids, mask)

    def spans_by_controls(self, text: str, ids: list[int], turns: Sequence[Turn]) -> list[tuple[int, int]] | None:
        """What is supervised of `ids`; None where the control tokens alone do not settle it."""
        found = [(match.start(), self._controls[match.group()]) for match in self._control.finditer(text)]
        control_ids = self._control_ids
        places = list(compress(count(), map(control_ids.__contains__, ids)))
        if [ids[place] for place in places] != [number for _, number in found]:
            return None
        starts = [start for start, _ in found]
        spans: list[tuple[int, int]] = []
        for turn in turns:
            prompt = len(turn.prompt)
            behind = bisect_left(starts, prompt)
            last = next((i for i in range(behind - 1, -1, -1) if found[i][1] in self._special_ids), None)
            if last is None:
                return None
            opening = self._end_of_prompt(text[starts[last] : prompt])
            answer = places[last] + len(opening)
            if ids[places[last] : answer] != opening:
                return None
            stops = (i for i in range(last + 1, len(found)) if places[i] >= answer and found[i][1] in self._stop_ids)
            stop = next(stops, None)
            if stop is None or starts[stop] != prompt + turn.stop:
                return None
            spans.append((answer, places[stop] + 1))
        return spans

    def spans_by_offsets(self, text: str, turns: Sequence[Turn]) -> list[tuple[int, int]] | None:
        """What is supervised of the text's ids; None where a prompt alone has other tokens than it has in the text."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        ids, offsets = encoding.ids, encoding.offsets
        starts = [start for start, _ in offsets]
        spans: list[tuple[int, int]] = []
        for turn in turns:
            answer = self._boundary(text, ids, starts, len(turn.prompt))
            if answer is None:
                return None
            stop = self.first_stop(ids, answer)
            if not offsets[stop][0] <= len(turn.prompt) + turn.stop < offsets[stop][1]:
                return None
            spans.append((answer, stop + 1))
        return spans

    def _boundary(self, text: str, ids: list[int], starts: list[int], prompt: int) -> int | None:
        """Index of the first token behind the prompt; None when the prompt alone has other tokens.

        Added tokens split a text before anything else looks at it, so it is enough to encode the prompt's end
        from its last special token on.
        """
        answer = bisect_left(starts, prompt)
        special = next((i for i in range(answer - 1, -1, -1) if ids[i] in self._special_ids), 0)
        start = starts[special] if answer else 0
        return answer if self.encode(text[start:prompt]) == ids[special:answer] else None

    def first_stop(self, ids: list[int], start: int) -> int:
        for index in range(start, len(ids)):
            if ids[index] in self._stop_ids:
                return index
        raise TemplateRefused("the text of the end-of-turn token does not become that token in this tokenizer")
