"""What becomes of an example that is longer than can be trained on: one rule for the plan's counts and the trainer.

Truncation takes the beginning of the prompt, never a token of an answer, and keeps a leading BOS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from core.errors import InvalidExample
from core.rendering.render import Rendered
from core.spec import TooLong

SHOWN_LINES = 16  # of what is counted, in one sentence


@dataclass(frozen=True)
class Fitted:
    """The sequences to train on; none where the example is left out."""

    sequences: list[Rendered]
    truncated: bool = False

    @property
    def dropped(self) -> bool:
        return not self.sequences


def fit(
    sequences: Sequence[Rendered], limit: int, policy: TooLong, *, line: int, bos_id: int | None, is_pair: bool
) -> Fitted:
    """At most `limit` tokens in every sequence. `is_pair`: two answers to one prompt, which stays one when it is cut.

    Raises InvalidExample (example_too_long) naming the line: by the policy error, and by truncate where an answer
    alone is too long.
    """
    excess = [len(sequence.token_ids) - limit for sequence in sequences]
    if max(excess) <= 0:
        return Fitted(list(sequences))
    longest = max(excess) + limit
    if policy is TooLong.ERROR:
        raise InvalidExample(
            f"line {line}: the example has {longest} tokens, more than max_example_tokens ({limit}); shorten it, raise "
            "the limit, or choose what becomes of such lines with too_long",
            code="example_too_long",
            line=line,
        )
    if policy is TooLong.DROP:
        return Fitted([])
    if is_pair:
        excess = [max(excess)] * len(sequences)
    return Fitted(
        [_cut(sequence, over, line, bos_id) for sequence, over in zip(sequences, excess, strict=True)], truncated=True
    )


def _cut(sequence: Rendered, excess: int, line: int, bos_id: int | None) -> Rendered:
    if excess <= 0:
        return sequence
    ids, mask = sequence.token_ids, sequence.mask
    kept = 1 if ids[0] == bos_id else 0
    answer = mask.index(True) if True in mask else len(mask)
    # A token of the prompt has to stay, since the first token of all is predicted from nothing
    removable = answer - max(kept, 1)
    if excess > removable:
        raise InvalidExample(
            f"line {line}: the example is {excess} tokens too long, and only {removable} before its first answer; "
            "answers are never cut: shorten it, raise max_example_tokens, or choose too_long drop",
            code="example_too_long",
            line=line,
        )
    return Rendered(ids[:kept] + ids[kept + excess :], mask[:kept] + mask[kept + excess :])


def counted(dropped: Sequence[int], truncated: Sequence[int], name: str, limit: int) -> list[str]:
    """Sentences for the job's events; none where nothing was too long."""
    found = [
        (dropped, "left out", "example is", "examples are"),
        (truncated, "cut at the beginning of the prompt", "example is", "examples are"),
    ]
    return [
        f"{name}: {len(lines)} {one if len(lines) == 1 else many} longer than {limit} tokens and {what}: lines "
        + ", ".join(str(line) for line in lines[:SHOWN_LINES])
        + (" …" if len(lines) > SHOWN_LINES else "")
        for lines, what, one, many in found
        if lines
    ]
