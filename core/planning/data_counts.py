"""What a file of examples comes to in tokens of a base: all that a plan needs to know of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.errors import InvalidExample

if TYPE_CHECKING:
    from core.rendering.render import Rendered  # a plan needs no tokenizer


@dataclass(frozen=True)
class DataCounts:
    """What one pass over a file comes to, in tokens of the base."""

    examples: int
    tokens: int
    supervised_tokens: int
    longest_tokens: int  # of one sequence
    longest_line: int = 0  # where that one stands; 0: not known
    dropped_lines: tuple[int, ...] = ()  # of examples left out as too long
    truncated_lines: tuple[int, ...] = ()  # of examples whose prompt was cut


class Counter:
    """Adds up rendered examples."""

    def __init__(self) -> None:
        self._examples = self._tokens = self._supervised = self._longest = self._longest_line = 0
        self._dropped: list[int] = []
        self._truncated: list[int] = []

    def add(self, line: int, sequences: Sequence[Rendered]) -> None:
        """Raises `InvalidExample` (no_supervised_tokens) when there is nothing to learn in the example."""
        supervised = sum(sequence.mask.count(True) for sequence in sequences)
        if not supervised:
            raise InvalidExample(
                f"line {line}: nothing in the example is trained on; give at least one assistant message weight 1",
                code="no_supervised_tokens",
                line=line,
            )
        self._examples += 1
        self._supervised += supervised
        for sequence in sequences:
            length = len(sequence.token_ids)
            self._tokens += length
            if length > self._longest:
                self._longest, self._longest_line = length, line

    def drop(self, line: int) -> None:
        """The example is left out."""
        self._dropped.append(line)

    def note_truncated(self, line: int) -> None:
        """The example, which is added as well, has lost the beginning of its prompt."""
        self._truncated.append(line)

    def counts(self) -> DataCounts:
        return DataCounts(
            self._examples,
            self._tokens,
            self._supervised,
            self._longest,
            self._longest_line,
            tuple(self._dropped),
            tuple(self._truncated),
        )
