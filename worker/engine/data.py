"""A file of examples, rendered and tokenised once into flat arrays whose hash names what a run was trained on. They
are written as they come and lie on disk, mapped: memory does not grow with the file.

The order of an epoch is a function of seed and epoch alone: nothing that runs in between can change it.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.data.examples import iter_examples, must_fit
from core.errors import InvalidExample
from core.planning.too_long import fit
from core.protocol import WorkFolder
from core.rendering.render import Rendered, Renderer
from core.spec import Method, TooLong
from worker.engine.column import Column
from worker.engine.pack import Segment

PROBE_VALIDATION_EXAMPLES = 64
PROBE_TRAINING_EXAMPLES = 32
SUBSET_EXAMPLES = 32  # of the validation file, looked at during training
BLOCK_SEGMENTS = 1 << 16  # whose lengths are looked at together; even, so that no pair is divided


@dataclass(frozen=True)
class Dataset:
    """E examples, each of one or more segments (an example is rendered once per supervised turn where the
    template needs that; a preference pair is its two answers), laid end to end."""

    token_ids: NDArray[np.uint32]  # [tokens]
    mask: NDArray[np.bool_]  # [tokens] supervised
    offsets: NDArray[np.int64]  # [segments + 1] into tokens
    starts: NDArray[np.int64]  # [E + 1] into segments
    lines: NDArray[np.int64]  # [E] of the file, from 1

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def tokens(self) -> int:
        return len(self.token_ids)

    @cached_property
    def supervised_tokens(self) -> int:
        return int(self.mask.sum())

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest segment."""
        return max(int(lengths.max()) for lengths in self.segment_lengths())

    def segment_lengths(self) -> Iterator[NDArray[np.int64]]:
        """Tokens of segment after segment, in blocks."""
        for start in range(0, len(self.offsets) - 1, BLOCK_SEGMENTS):
            yield np.diff(self.offsets[start : start + BLOCK_SEGMENTS + 1])

    @cached_property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        for part in (self.token_ids, self.mask, self.offsets, self.starts):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()

    def segments(self, example: int) -> list[Segment]:
        """Views of one example's segments."""
        bounds = self.offsets[self.starts[example] : self.starts[example + 1] + 1]
        line = int(self.lines[example])
        return [Segment(self.token_ids[a:b], self.mask[a:b], line) for a, b in pairwise(bounds)]

    def segment(self, number: int) -> Segment:
        """A view of one segment of all."""
        start, end = self.offsets[number : number + 2]
        example = int(np.searchsorted(self.starts, number, side="right")) - 1
        return Segment(self.token_ids[start:end], self.mask[start:end], int(self.lines[example]))

    def subset(self) -> list[Segment]:
        """A fixed, evenly spread part for the looks in between."""
        count = min(SUBSET_EXAMPLES, len(self))
        return [segment for i in range(count) for segment in self.segments(i * len(self) // count)]

    def all_segments(self) -> list[Segment]:
        return [segment for i in range(len(self)) for segment in self.segments(i)]


def tokenise(
    path: Path,
    renderer: Renderer,
    max_example_tokens: int,
    method: Method = Method.SUPERVISED,
    too_long: TooLong = TooLong.ERROR,
) -> Dataset:
    """Render every example of `path`.

    Raises InvalidExample, naming the line, for one that is faulty, too long, without a supervised token or not of
    the method's kind. What `too_long` lets drop or cut was counted in preparation, and the job's events say so.
    """
    folder = path.parent
    token_ids, mask = Column(folder, "I", np.uint32), Column(folder, "b", np.bool_)
    offsets, starts, lines = (Column(folder, "q", np.int64) for _ in range(3))
    offsets.append(0)
    starts.append(0)
    for line, segments in rendered_examples(path, renderer, max_example_tokens, method, too_long):
        for segment in segments:
            token_ids.extend(segment.token_ids)
            mask.extend(array("b", bytes(segment.mask)))  # a fifth of the time that a list takes
            offsets.append(len(token_ids))
        starts.append(len(offsets) - 1)
        lines.append(line)
    if not lines:
        raise InvalidExample("the file holds no examples", code="no_examples")
    return Dataset(token_ids.whole(), mask.whole(), offsets.whole(), starts.whole(), lines.whole())


def rendered_examples(
    path: Path, renderer: Renderer, max_example_tokens: int, method: Method, too_long: TooLong
) -> Iterator[tuple[int, list[Rendered]]]:
    """(line, its sequences) of every example that is trained on."""
    for line, example in iter_examples(path):
        must_fit(example, method, line)
        try:
            segments = renderer.render_example(example)
        except InvalidExample as error:
            raise _invalid(line, error.code or "invalid_example", error.message, error.field) from error
        is_pair = method is Method.DPO
        fitted = fit(segments, max_example_tokens, too_long, line=line, bos_id=renderer.bos_id, is_pair=is_pair)
        if fitted.dropped:
            continue
        if not any(True in segment.mask for segment in fitted.sequences):
            raise _invalid(
                line,
                "no_supervised_tokens",
                "nothing in the example is trained on; give at least one assistant message weight 1",
            )
        yield line, fitted.sequences


def _invalid(line: int, code: str, message: str, field: str | None = None) -> InvalidExample:
    return InvalidExample(f"line {line}: {message}", code=code, line=line, field=field)


def probe_segments(
    folder: WorkFolder,
    renderer: Renderer,
    max_example_tokens: int,
    method: Method = Method.SUPERVISED,
    too_long: TooLong = TooLong.ERROR,
) -> list[Segment]:
    """The probe set: the first examples of the validation file, else of the training file.

    Trainer and proof both measure the final adapter on it.
    """
    has_validation = folder.validation.exists()
    path = folder.validation if has_validation else folder.training
    count = PROBE_VALIDATION_EXAMPLES if has_validation else PROBE_TRAINING_EXAMPLES
    return [
        Segment(np.array(segment.token_ids, dtype=np.uint32), np.array(segment.mask, dtype=np.bool_), line)
        for line, segments in islice(rendered_examples(path, renderer, max_example_tokens, method, too_long), count)
        for segment in segments
    ]


def epoch_order(seed: int, epoch: int, examples: int) -> NDArray[np.int64]:
    """[examples] the permutation of one epoch: ranks of Philox's raw words, whose stream numpy keeps stable."""
    words = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)).random_raw(examples)
    return np.argsort(words, kind="stable")


class Batches:
    """Which examples each optimizer step takes: `batch_size` in the epoch's order, fewer in its last step."""

    def __init__(self, examples: int, batch_size: int, seed: int) -> None:
        self.examples = examples
        self.batch_size = batch_size
        self.seed = seed
        self.steps_per_epoch = -(-examples // batch_size)
        self._epoch = -1
        self._order: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def of_step(self, step: int) -> list[int]:
        """Examples of optimizer step `step`, from 1."""
        epoch, place = divmod(step - 1, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, epoch_order(self.seed, epoch, self.examples)
        return self._order[place * self.batch_size : (place + 1) * self.batch_size].tolist()

    def ends_epoch(self, step: int) -> bool:
        return step % self.steps_per_epoch == 0
