"""What only rendering shows of a file: tokens, what of them is supervised, what is too long."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from core.data.conversation import Example
from core.data.example_reader import Finding
from core.doctor.orders import Base
from core.errors import AttuneError, InvalidExample, TemplateRefused
from core.rendering.render import Renderer

_STEPS = 16


@lru_cache(maxsize=1)
def renderer_of(base: Base) -> Renderer:
    return Renderer.from_folder(Path(base.folder), base.date)


class Tokens:
    """Renders example after example as the trainer will, and adds up."""

    def __init__(self, base: Base, max_tokens: int) -> None:
        self._model = base.model
        self._renderer = renderer_of(base)
        self._max_tokens = max_tokens
        self._total = self._supervised = self._longest = self._longest_line = self._too_long = 0
        self._widths = _widths(max_tokens)
        self._counts = [0] * len(self._widths)
        self._refused = False

    def add(self, example: Example, line: int) -> Iterator[Finding]:
        if self._refused:
            return
        try:
            sequences = self._renderer.render_example(example)
        except InvalidExample as error:
            yield Finding(error.code or "invalid_example", error.message, line, error.field)
            return
        except TemplateRefused as error:  # of any example: one word on it is enough
            self._refused = True
            yield Finding("template_refused", error.message, 0, None)
            return
        longest = max(len(sequence.token_ids) for sequence in sequences)
        supervised = sum(sequence.mask.count(True) for sequence in sequences)
        self._total += sum(len(sequence.token_ids) for sequence in sequences)
        self._supervised += supervised
        if longest > self._longest:
            self._longest, self._longest_line = longest, line
        self._counts[next(i for i, width in enumerate(self._widths) if width is None or longest < width)] += 1
        if not supervised:
            message = "nothing in the example is trained on; give at least one assistant message weight 1"
            yield Finding("no_supervised_tokens", message, line, None)
        stops = {*self._renderer.template.stop_ids, self._renderer.eos_id}
        for sequence in sequences:
            last = max((i for i, is_supervised in enumerate(sequence.mask) if is_supervised), default=None)
            if last is not None and sequence.token_ids[last] not in stops:
                message = "the answer's end is not trained on, so the model would not learn to stop; use another base"
                yield Finding("end_token_missing", message, line, None)
        if longest > self._max_tokens:
            self._too_long += 1
            message = f"the example has {longest} tokens and {self._max_tokens} are taken; shorten or remove it"
            yield Finding("too_long", message, line, None)

    def described(self) -> dict[str, object] | None:
        if self._refused:
            return None
        starts = [0, *(width for width in self._widths if width is not None)]
        return {
            "model": self._model,
            "total": self._total,
            "supervised": self._supervised,
            "longest": self._longest,
            "longest_line": self._longest_line or None,
            "max_tokens": self._max_tokens,
            "too_long": self._too_long,
            "histogram": [
                {"from": start, "to": width, "count": count}
                for start, width, count in zip(starts, self._widths, self._counts, strict=True)
            ],
        }


def _widths(max_tokens: int) -> list[int | None]:
    """Where the histogram's steps end: even ones up to the limit, of which the last begins."""
    step = max(1, -(-max_tokens // _STEPS))
    return [*range(step, max_tokens + 1, step), None] if step < max_tokens else [max_tokens + 1, None]


def length_of(renderer: Renderer, example: Example) -> int | None:
    """Tokens of its longest sequence; None where it cannot be rendered."""
    try:
        return max(len(sequence.token_ids) for sequence in renderer.render_example(example))
    except AttuneError:
        return None
