"""A few lines out of a long file, for which the rest is passed over and not kept."""

from __future__ import annotations

from collections.abc import Iterable

from core.errors import AttuneError

MAX_BYTES = 32 * 1024**2  # of the lines together
_BOM = b"\xef\xbb\xbf"


def window(chunks: Iterable[bytes], first: int, count: int) -> tuple[list[bytes], bool]:
    """(up to `count` lines from line `first` on, whether there are more). Lines with nothing in them end a file.

    Raises AttuneError (line_too_long) for lines that are none.
    """
    passed, kept, pending = 1, list[bytes](), bytearray()
    for chunk in chunks:
        start = 0
        while passed < first and (end := chunk.find(b"\n", start)) >= 0:
            passed, start = passed + 1, end + 1
        if passed < first:
            continue
        pending += chunk[start:]
        if len(pending) > MAX_BYTES:
            raise AttuneError(
                "The lines are too long to show; is the file JSONL? Convert it first.", code="line_too_long"
            )
        if pending.count(b"\n") > count:
            break
    kept = bytes(pending).split(b"\n")
    has_more = any(line.strip() for line in kept[count:])
    kept = [line.rstrip(b"\r") for line in kept[:count]]
    while kept and not kept[-1].strip():
        kept.pop()
    if first == 1 and kept:
        kept[0] = kept[0].removeprefix(_BOM)
    return kept, has_more
