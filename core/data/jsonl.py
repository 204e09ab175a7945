"""Strict JSONL from bytes that arrive in any chunks: one JSON object a line, split on \\n and on nothing else.

The fast path is msgspec, which lets duplicate keys and \\u0000 pass; a line where either is possible goes
through the strict slow path. A file that is no JSONL raises at once, an object with a fault is reported.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias, cast

import msgspec

from core.errors import AttuneError

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

KIND_NAMES: dict[type[object], str] = {
    bool: "true or false",
    str: "a string",
    list: "a list",
    dict: "an object",
    type(None): "null",
}
MAX_LINE_BYTES = 1024 * 1024
_BLOCK_BYTES = 64 * 1024  # read at once: enough to spare the cost of each line, little enough for the caches
MAX_DEPTH = 32  # objects and arrays within each other, the line's own object included
_BOM = b"\xef\xbb\xbf"
# The first bytes of what people upload by mistake
_FORMATS = (
    (b"PK\x03\x04", "a zip archive (or an .xlsx or .docx)"),
    (b"\x1f\x8b", "gzip data"),
    (b"BZh", "bzip2 data"),
    (b"\xfd7zXZ", "xz data"),
    (b"\x28\xb5\x2f\xfd", "zstandard data"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"%PDF", "a PDF document"),
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"SQLite format 3", "an SQLite database"),
    (b"\xff\xfe", "UTF-16 text"),
    (b"\xfe\xff", "UTF-16 text"),
    (b"{\x00", "UTF-16 text"),
    (b"\x00{", "UTF-16 text"),
)
_LONGEST_MAGIC = max(len(magic) for magic, _ in _FORMATS)
_KEY_THEN_SPACE = re.compile(rb'"[ \t\r]+:')
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


@dataclass(frozen=True)
class Fault:
    """What is wrong with a line that is a JSON object all the same. `field` reads like messages[2].role."""

    code: str
    message: str
    field: str | None = None


class _Suspect(Exception):
    """The fast path cannot vouch for this line."""


def invalid_file(message: str) -> AttuneError:
    return AttuneError(message, code="invalid_file_format", param="file")


def _not_a_dictionary(line: bytes, number: int, reason: str) -> AttuneError:
    start = line[:24].decode("utf-8", errors="replace")
    hint = f"{start}{'…' if len(line) > 24 else ''}"
    return invalid_file(
        "Expected file to have JSONL format, where every line is a JSON dictionary. "
        f'Line {number} is not a dictionary (HINT: line starts with: "{hint}"). {reason}'
    )


class LineSplitter:
    """Bytes in any chunks to (number, line) pairs, numbered from 1, without their line ends.

    Tolerates a byte order mark at the start, CRLF, and blank lines at the end. Holds one line at most.
    Raises `AttuneError` (invalid_file_format) for other formats, for too long a line and for an empty file.
    """

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_line_bytes = max_line_bytes
        self._block_bytes = min(_BLOCK_BYTES, max_line_bytes)
        self._pending = bytearray()  # of a line whose end has not come yet
        self._number = 0
        self._blank: int | None = None  # number of the first blank line since the last one with text
        self._seen_text = False
        self._at_start = True

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        for block in self.blocks(data):
            yield from self.lines(block)

    def blocks(self, data: bytes) -> Iterator[bytes]:
        """Whole lines with their line ends, many at once. Each is for `lines`, or for `passed` when its lines were
        counted otherwise, before the next one is taken."""
        if self._at_start:
            data = bytes(self._pending) + data
            self._pending.clear()
            if len(data) < _LONGEST_MAGIC:
                self._pending += data
                return
            data = self._begin(data)
        start = 0
        end = data.rfind(b"\n") + 1
        if end and self._pending:
            start = data.find(b"\n") + 1
            self._bound(len(self._pending) + start - 1)
            line = bytes(self._pending) + data[:start]
            self._pending.clear()
            yield line
        while start < end:
            cut = data.rfind(b"\n", start, min(end, start + self._block_bytes)) + 1
            if not cut:
                cut = data.find(b"\n", start) + 1
                self._bound(cut - 1 - start)
            yield data[start:cut]
            start = cut
        self._bound(len(self._pending) + len(data) - end)
        self._pending += data[end:]

    def lines(self, block: bytes) -> Iterator[tuple[int, bytes]]:
        start = 0
        while start < len(block):
            end = block.index(b"\n", start)
            yield from self._line(block[start:end])
            start = end + 1

    def passed(self, count: int) -> None:
        """`count` lines, each with text, were taken from a block."""
        self._refuse_blank()
        self._number += count
        self._seen_text = True

    def finish(self) -> Iterator[tuple[int, bytes]]:
        """The last line, when the file does not end in a newline."""
        rest = bytes(self._pending)
        self._pending.clear()
        if self._at_start:
            rest = self._begin(rest)
        for line in rest.split(b"\n"):  # a file shorter than the longest magic has been held back whole
            yield from self._line(line)
        if not self._seen_text:
            raise invalid_file("The file is empty. Expected one JSON dictionary a line.")

    def _begin(self, data: bytes) -> bytes:
        self._at_start = False
        for magic, name in _FORMATS:
            if data.startswith(magic):
                advice = "Save it as UTF-8." if name.startswith("UTF-16") else "Upload the JSONL file itself."
                raise invalid_file(
                    "Expected file to have JSONL format, where every line is a JSON dictionary. "
                    f"This is {name}. {advice}"
                )
        return data.removeprefix(_BOM)

    def _bound(self, line_bytes: int) -> None:
        if line_bytes > self._max_line_bytes:
            raise invalid_file(
                f"Line {self._number + 1} is longer than {self._max_line_bytes} bytes. "
                "Put every example on a line of its own and split very long ones."
            )

    def _line(self, line: bytes) -> Iterator[tuple[int, bytes]]:
        self._number += 1
        if not line or line.isspace():
            self._blank = self._blank or self._number
            return
        self._refuse_blank()
        self._seen_text = True
        yield self._number, line

    def _refuse_blank(self) -> None:
        if self._blank is not None and self._seen_text:
            raise invalid_file(f"Line {self._blank} is blank. Only the end of the file may be.")
        if self._blank is not None:
            raise invalid_file(f"Line {self._blank} is blank. The file has to begin with a JSON dictionary.")


def parse_line(line: bytes, number: int) -> dict[str, Json] | Fault:
    """The object on a line, or what is wrong with it.

    Raises `AttuneError` (invalid_file_format) when the line is no JSON object at all, or no UTF-8.
    """
    try:
        parsed = _parse_fast(line)
    except (_Suspect, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _parse_strict(line, number)
    if not isinstance(parsed, dict):
        raise _not_a_dictionary(line, number, f"It is {kind_of(parsed)}.")
    return parsed


def _parse_fast(line: bytes) -> Json:
    parsed = cast(Json, msgspec.json.decode(line))
    # The counts are equal exactly when no key came twice
    if keys_in(line) != _count_keys(parsed, 1):
        raise _Suspect
    return parsed


def keys_in(line: bytes) -> int | None:
    """How many keys stand in a line that msgspec accepts; None when counting `":` less `\\":` might miss one, or when
    it may hold \\u0000.

    Every key is followed by a colon at once (the last test), no key ends in a backslash (the second), and a quote
    inside a string is escaped.
    """
    escaped = line.count(b'\\":')
    if b"\\u0000" in line or (escaped and b'\\\\":' in line):
        return None
    # Plain searches first: few lines need the expression. (A tab within a string would have to be escaped.)
    if (b" :" in line or b"\t" in line or b"\r" in line) and _KEY_THEN_SPACE.search(line):
        return None
    return line.count(b'":') - escaped


def _count_keys(value: Json, depth: int) -> int:
    if isinstance(value, dict):
        if depth > MAX_DEPTH:
            raise _Suspect
        count = len(value)
        for item in value.values():
            if item.__class__ is not str:
                count += _count_keys(item, depth + 1)
        return count
    if isinstance(value, list):
        if depth > MAX_DEPTH:
            raise _Suspect
        return sum(_count_keys(item, depth + 1) for item in value)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise _Suspect
    return 0


class _Object(dict[str, Json]):
    """A parsed object that remembers a key it met twice."""

    duplicate: str | None = None


def _object(pairs: list[tuple[str, Json]]) -> _Object:
    made = _Object(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        made.duplicate = next(key for key, _ in pairs if key in seen or seen.add(key))
    return made


def _integer(digits: str) -> int:
    return int(digits) if len(digits) <= 20 else 2**64  # any number out of range will do


def _parse_strict(line: bytes, number: int) -> dict[str, Json] | Fault:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise invalid_file(
            f"Line {number} is not UTF-8: byte {error.start + 1} of the line is 0x{line[error.start]:02x}. "
            "Save the file as UTF-8."
        ) from None
    if _depth(line) > MAX_DEPTH:
        return Fault("too_deep", f"objects and arrays are nested more than {MAX_DEPTH} deep; flatten them")
    try:
        parsed = cast(Json, json.loads(text, object_pairs_hook=_object, parse_int=_integer))
    except json.JSONDecodeError as error:
        reason = f"{error.msg} at column {error.colno}."
        raise _not_a_dictionary(line, number, reason) from None
    if not isinstance(parsed, dict):
        raise _not_a_dictionary(line, number, f"It is {kind_of(parsed)}.")
    return _first_fault(parsed, "") or parsed


def _depth(line: bytes) -> int:
    """Nesting by brackets outside strings: known before a recursive parser meets them."""
    depth = deepest = 0
    for bracket in _STRING.sub(b"", line).translate(None, _BRACKETS):
        if bracket in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        else:
            depth -= 1
    return deepest


def _first_fault(value: Json, path: str) -> Fault | None:
    """The first thing that JSON's grammar allows and we do not."""
    if isinstance(value, str):
        if "\x00" in value:
            return Fault("null_character", "the text holds \\u0000; remove it", path or None)
        if any("\ud800" <= character <= "\udfff" for character in value):
            return Fault(
                "lone_surrogate",
                "the text holds half of a surrogate pair (\\ud800 to \\udfff); write the whole character",
                path or None,
            )
        return None
    if isinstance(value, dict):
        if isinstance(value, _Object) and value.duplicate is not None:
            field = f"{path}.{value.duplicate}".lstrip(".")
            return Fault("duplicate_key", f'the key "{value.duplicate}" stands twice; keep one', _printable(field))
        for key, item in value.items():
            fault = _first_fault(key, path) or _first_fault(item, f"{path}.{key}".lstrip("."))
            if fault is not None:
                return fault
        return None
    if isinstance(value, list):
        for index, item in enumerate(value):
            fault = _first_fault(item, f"{path}[{index}]")
            if fault is not None:
                return fault
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return Fault("number_not_finite", "NaN, Infinity and numbers beyond 1.8e308 are no JSON numbers", path or None)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return Fault("number_out_of_range", "whole numbers go from -2^63 to 2^63 - 1; write it as text", path or None)
    return None


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def kind_of(value: Json) -> str:
    return KIND_NAMES.get(type(value), "a number")
