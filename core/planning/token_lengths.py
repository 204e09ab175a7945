"""How long the examples of a file are in a base's tokens, kept so that a plan for any limit is arithmetic.

Preparation counts under a claim, a row of `token_counts`; who plans asks for it and meanwhile gets none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, or_, select, update
from sqlalchemy.orm import Session

from core.db import db_now
from core.errors import AttuneError
from core.models import BaseModelRow, File
from core.planning.data_counts import Counter, DataCounts
from core.planning.models import TokenCount
from core.spec import Frozen, Method, TooLong

if TYPE_CHECKING:
    from core.rendering.render import Rendered

MAX_ATTEMPTS = 3


class Bin(Frozen):
    """The examples whose longest sequence has so many tokens; `tokens` and `supervised_tokens` of all of them."""

    longest_tokens: int
    examples: int
    tokens: int
    supervised_tokens: int


class Lengths(Frozen):
    bins: tuple[Bin, ...]  # by length, rising
    longest_line: int

    def counts(self, limit: int, too_long: TooLong) -> Fitted:
        """What is trained on under a limit. A cut example is taken to lose what its longest sequence is over by."""
        kept, over = [b for b in self.bins if b.longest_tokens <= limit], 0
        dropped = truncated = excess = 0
        for one in self.bins[len(kept) :]:
            over += one.examples
            if too_long is TooLong.DROP:
                dropped += one.examples
                continue
            kept.append(one)
            if too_long is TooLong.TRUNCATE:
                truncated += one.examples
                excess += one.examples * (one.longest_tokens - limit)
        longest = max((one.longest_tokens for one in kept), default=0)
        counts = DataCounts(
            examples=sum(one.examples for one in kept),
            tokens=sum(one.tokens for one in kept) - excess,
            supervised_tokens=sum(one.supervised_tokens for one in kept),
            longest_tokens=longest if too_long is TooLong.ERROR else min(longest, limit),
            longest_line=self.longest_line if over and too_long is TooLong.ERROR else 0,
        )
        return Fitted(counts, dropped, truncated)


@dataclass(frozen=True)
class Fitted:
    counts: DataCounts
    dropped: int
    truncated: int


class LengthCounter:
    """Adds up rendered examples as `core.planning.data_counts.Counter` does, and keeps their lengths."""

    def __init__(self) -> None:
        self._counter = Counter()  # refuses what has nothing to learn
        self._bins: dict[int, list[int]] = {}

    def add(self, line: int, sequences: Sequence[Rendered]) -> None:
        self._counter.add(line, sequences)
        longest = max(len(sequence.token_ids) for sequence in sequences)
        found = self._bins.setdefault(longest, [0, 0, 0])
        found[0] += 1
        found[1] += sum(len(sequence.token_ids) for sequence in sequences)
        found[2] += sum(sequence.mask.count(True) for sequence in sequences)

    def lengths(self) -> Lengths:
        bins = tuple(
            Bin(longest_tokens=longest, examples=found[0], tokens=found[1], supervised_tokens=found[2])
            for longest, found in sorted(self._bins.items())
        )
        return Lengths(bins=bins, longest_line=self._counter.counts().longest_line)


def of_file(session: Session, file: File, base: BaseModelRow, method: Method, param: str) -> Lengths | None:
    """None: they are being counted. Raises AttuneError where the file cannot be, as the job would fail."""
    row = session.get(TokenCount, (file.id, base.id, method.value))
    if row is not None and row.status != "wanted" and row.revision != base.revision:
        session.delete(row)  # the base is another by now
        session.flush()
        row = None
    if row is None:
        session.add(
            TokenCount(
                file_id=file.id, base_model=base.id, method=method.value, project_id=file.project_id,
                revision="", status="wanted",
            )
        )  # fmt: skip
        return None
    if row.error is not None:
        raise AttuneError(row.error["message"], code=row.error["code"], param=param)
    return None if row.lengths is None else Lengths.model_validate(row.lengths)


def claim(session: Session, holder: str, lease_s: float) -> TokenCount | None:
    """The oldest wanted count that nobody holds."""
    wanted = (
        select(TokenCount)
        .where(
            TokenCount.status == "wanted",
            or_(TokenCount.lease_until.is_(None), TokenCount.lease_until < db_now()),
        )
        .order_by(TokenCount.created_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    row = session.scalars(wanted).one_or_none()
    if row is None:
        return None
    row.attempt += 1
    row.holder = holder
    session.execute(update(TokenCount).where(*_same(row)).values(lease_until=db_now() + lease_s))
    session.flush()
    return row


def renew(session: Session, row: TokenCount, lease_s: float) -> bool:
    return _write(session, row, lease_until=db_now() + lease_s)


def counted(session: Session, row: TokenCount, revision: str, lengths: Lengths) -> bool:
    """Store what was counted; False when another holds the claim by now."""
    return _write(
        session, row, status="counted", revision=revision, lengths=lengths.model_dump(mode="json"), lease_until=None
    )


def failed(session: Session, row: TokenCount, revision: str, error: AttuneError) -> bool:
    shown = {"code": error.code, "message": error.message, "param": error.param}
    return _write(session, row, status="error", revision=revision, error=shown, lease_until=None)


def give_up(session: Session, row: TokenCount) -> bool:
    """Leave it to another try. After `MAX_ATTEMPTS` it stays an error."""
    if row.attempt < MAX_ATTEMPTS:
        return _write(session, row, lease_until=None)
    error = AttuneError("The file could not be counted; try again later.", code="preparation_failed")
    return failed(session, row, "", error)


def end_claims_of(session: Session, holder: str) -> None:
    """Those of a dead predecessor."""
    session.execute(
        update(TokenCount).where(TokenCount.holder == holder, TokenCount.status == "wanted").values(lease_until=None)
    )


def _same(row: TokenCount) -> list[ColumnElement[bool]]:
    return [
        TokenCount.file_id == row.file_id,
        TokenCount.base_model == row.base_model,
        TokenCount.method == row.method,
    ]


def _write(session: Session, row: TokenCount, **values: object) -> bool:
    done = session.execute(
        update(TokenCount)
        .where(*_same(row), TokenCount.attempt == row.attempt, TokenCount.status == "wanted")
        .values(**values)
        .returning(TokenCount.file_id)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    return done is not None
