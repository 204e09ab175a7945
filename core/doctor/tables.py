"""Rows of any format, one at a time, as names and values. A row that cannot be one is a finding and no row."""

from __future__ import annotations

import csv
import datetime
import decimal
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn, TextIO, TypeAlias, cast

from core.data.example_reader import Finding
from core.data.jsonl import Json
from core.doctor.sources import MAX_UNPACKED_BYTES, Source, too_large, unreadable
from core.errors import AttuneError

MAX_CELL_CHARS = 1024 * 1024
MAX_COLUMNS = 1000
SEEN_ROWS = 200  # whose keys are the columns of a format without a heading
_READ_CHARS = 1024 * 1024
_JSON_CHARS = 4 * MAX_CELL_CHARS  # of one record

Cells: TypeAlias = dict[str, Json]
Row: TypeAlias = tuple[int, Cells | Finding]


@dataclass(frozen=True)
class Table:
    """`rows` can be taken once. `sheets` of a workbook."""

    columns: list[str]
    rows: Iterator[Row]
    sheets: list[str] | None = None
    sheet: str | None = None


def open_table(source: Source, sheet: str | None = None) -> Table:
    """Raises AttuneError (unreadable_file, file_too_large, invalid_value), here or while rows are taken."""
    if source.format == "xlsx":
        return _workbook(source, sheet)
    if sheet is not None:
        raise AttuneError("Only a workbook has sheets; leave sheet out.", code="invalid_value", param="sheet")
    if source.format == "parquet":
        return _parquet(source)
    if source.format in ("csv", "tsv"):
        return _separated(source)
    if source.format == "text":
        return Table(["text"], _whole(_paragraphs(source), source.is_head))
    rows = _json_lines(source) if source.format == "jsonl" else _json_records(source)
    return _of_records(_whole(rows, source.is_head))


def _whole(rows: Iterator[Row], is_head: bool) -> Iterator[Row]:
    """All rows; of a file's head all but the last, which may have been cut."""
    if not is_head:
        yield from rows
        return
    held: Row | None = None
    for row in rows:
        if held is not None:
            yield held
        held = row


def _of_records(rows: Iterator[Row]) -> Table:
    first = list(itertools.islice(rows, SEEN_ROWS))
    columns = dict.fromkeys(name for _, cells in first if isinstance(cells, dict) for name in cells)
    return Table(list(columns)[:MAX_COLUMNS], itertools.chain(first, rows))


def _text(source: Source) -> TextIO:
    return source.path.open(encoding=source.encoding, newline="")


# Tables as text


def _separated(source: Source) -> Table:
    csv.field_size_limit(MAX_CELL_CHARS)
    rows = _cells(source)
    heading = next((row for row in rows if any(cell.strip() for cell in row[1])), None)
    if heading is None:
        raise unreadable("The table has no row.")
    columns = _names(heading[1])
    return Table(columns, _whole(_named(rows, columns), source.is_head))


def _cells(source: Source) -> Iterator[tuple[int, list[str]]]:
    with _text(source) as file:
        reader = csv.reader((line.replace("\x00", "") for line in file), delimiter=source.delimiter or ",")
        line = 1
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if "field larger" in str(error):
                    raise too_large(
                        f"Line {line} begins a cell of more than {MAX_CELL_CHARS} characters; a quotation mark may be "
                        "missing there."
                    ) from error
                raise unreadable(f"Line {line} cannot be read as a row: {error}.") from error
            yield line, row
            line = reader.line_num + 1


def _names(heading: Sequence[str]) -> list[str]:
    if len(heading) > MAX_COLUMNS:
        raise too_large(f"The table has {len(heading)} columns; give at most {MAX_COLUMNS}.")
    names: list[str] = []
    for index, cell in enumerate(heading, 1):
        name = cell.strip().lstrip("\ufeff")[:200] or f"column {index}"
        names.append(name if name not in names else f"{name} ({index})")
    return names


def _named(rows: Iterator[tuple[int, list[str]]], columns: list[str]) -> Iterator[Row]:
    for line, row in rows:
        if not any(cell.strip() for cell in row):
            yield line, Finding("empty_row", "the row has no text and is left out", line, None, "hint")
        elif len(row) > len(columns) and any(cell.strip() for cell in row[len(columns) :]):
            message = (
                f"the row has {len(row)} cells and the heading {len(columns)}; put a cell that holds the delimiter in "
                "quotation marks. The row is left out"
            )
            yield line, Finding("ragged_row", message, line, None, "warning")
        else:
            yield line, dict(zip(columns, row, strict=False))


def _paragraphs(source: Source) -> Iterator[Row]:
    """Texts between blank lines; every line, where there is no blank one at the start."""
    with _text(source) as file:
        sample = file.read(_READ_CHARS)
    by_line = not any(not line.strip() for line in sample.strip().splitlines())
    with _text(source) as file:
        begun, kept, size = 1, list[str](), 0
        for number, line in enumerate(_bounded_lines(file), 1):
            if line.strip():
                begun = begun if kept else number
                kept.append(line.rstrip())
                size += len(line)
                if size > MAX_CELL_CHARS:
                    raise too_large(f"The text that begins on line {begun} is longer than {MAX_CELL_CHARS} characters.")
            if kept and (by_line or not line.strip()):
                yield begun, {"text": "\n".join(kept)}
                kept, size = [], 0
        if kept:
            yield begun, {"text": "\n".join(kept)}


def _bounded_lines(file: TextIO) -> Iterator[str]:
    number = 0
    while line := file.readline(_JSON_CHARS):
        number += 1
        if len(line) == _JSON_CHARS and not line.endswith("\n"):
            raise too_large(f"Line {number} is longer than {_JSON_CHARS} characters.")
        yield line


# JSON


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


_decoder = json.JSONDecoder(parse_constant=_no_number)


def _json_lines(source: Source) -> Iterator[Row]:
    with _text(source) as file:
        for number, line in enumerate(_bounded_lines(file), 1):
            if not line.strip("\ufeff \t\r\n"):
                continue
            try:
                value = cast(Json, _decoder.decode(line.lstrip("\ufeff")))
            except (ValueError, RecursionError) as error:
                if source.is_head and not line.endswith("\n"):
                    return
                yield number, Finding("invalid_json", f"the line is no JSON ({error}); correct it", number, None)
                continue
            yield number, _record(value, number)


def _record(value: Json, number: int) -> Cells | Finding:
    if isinstance(value, dict):
        return value
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return {"messages": value}  # a conversation that stands there by itself
    if isinstance(value, str):
        return {"text": value}
    return Finding("not_an_object", "this is neither an object nor a text; give one of them", number, None)


def _json_records(source: Source) -> Iterator[Row]:
    """The records of an array; of an object the one list of objects that it holds."""
    with _text(source) as file:
        start = file.read(64).lstrip("\ufeff \t\r\n")
        if not start.startswith("["):
            file.seek(0)
            yield from _within_object(file, source)
            return
        file.seek(0)
        buffer, number, opened = "", 0, False
        while True:
            buffer = buffer.lstrip("\ufeff \t\r\n,") if opened else buffer.lstrip("\ufeff \t\r\n")
            if not opened and buffer:
                buffer, opened = buffer[1:], True
                continue
            if buffer.startswith("]"):
                return
            try:
                value, end = _decoder.raw_decode(buffer)
                is_cut = end == len(buffer)  # a number may go on
            except (ValueError, RecursionError) as error:
                value, end, is_cut = None, 0, True
                fault = str(error)
            else:
                fault = "it ends in the middle"
            if is_cut:
                if len(buffer) > _JSON_CHARS:
                    raise unreadable(f"Record {number + 1} of the array cannot be read: {fault}.")
                more = file.read(_READ_CHARS)
                if more:
                    buffer += more
                    continue
                if source.is_head:
                    return
                raise unreadable(f"Record {number + 1} of the array cannot be read: {fault}.")
            number += 1
            yield number, _record(cast(Json, value), number)
            buffer = buffer[end:]


def _within_object(file: TextIO, source: Source) -> Iterator[Row]:
    text = file.read(MAX_UNPACKED_BYTES // 8)
    if file.read(1):
        raise too_large("An object this large cannot be read; give its list of records as an array, or as JSONL.")
    try:
        value = cast(Json, _decoder.decode(text.lstrip("\ufeff")))
    except (ValueError, RecursionError) as error:
        if source.is_head:
            raise too_large("The object is too large for a preview; give its list of records as an array.") from error
        raise unreadable(f"The file is no JSON: {error}.") from error
    assert isinstance(value, dict)
    lists = [held for held in value.values() if isinstance(held, list) and held and isinstance(held[0], dict)]
    if len(lists) == 1 and "messages" not in value and "conversations" not in value:
        for number, item in enumerate(lists[0], 1):
            yield number, _record(item, number)
        return
    yield 1, value


# Binary tables


def _workbook(source: Source, sheet: str | None) -> Table:
    import python_calamine  # here: only a workbook needs it

    try:
        with source.path.open("rb") as file:  # by a path, calamine goes by its ending
            book = python_calamine.load_workbook(file)
        sheets = list(book.sheet_names)
        if sheet is not None and sheet not in sheets:
            message = f"There is no sheet {sheet[:100]!r}; there are {', '.join(sheets)[:300]}."
            raise AttuneError(message, code="invalid_value", param="sheet")
        if not sheets:
            raise unreadable("The workbook has no sheet.")
        name = sheet or sheets[0]
        opened = book.get_sheet_by_name(name)
        first = (opened.start or (0, 0))[0] + 1
        rows = iter(opened.to_python(skip_empty_area=True))
    except python_calamine.PasswordError as error:
        raise unreadable("The workbook is protected by a password; save it without one.") from error
    except (python_calamine.CalamineError, OSError, ValueError) as error:
        raise unreadable(f"The workbook cannot be read: {error}.") from error
    numbered = ((number, [_cell_text(cell) for cell in row]) for number, row in enumerate(rows, first))
    heading = next((row for row in numbered if any(cell.strip() for cell in row[1])), None)
    if heading is None:
        raise unreadable(f"The sheet {name!r} is empty; choose another one with sheet.")
    columns = _names(heading[1])
    return Table(columns, _named(numbered, columns), sheets, name)


def _cell_text(value: object) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    text = "" if value is None else str(value)
    if len(text) > MAX_CELL_CHARS:
        raise too_large(f"A cell holds more than {MAX_CELL_CHARS} characters.")
    return text


def _parquet(source: Source) -> Table:
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(source.path, memory_map=True)
        unpacked = [file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups)]
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise unreadable(f"The Parquet file cannot be read: {error}.") from error
    if max(unpacked, default=0) > MAX_UNPACKED_BYTES:
        raise too_large(
            f"A row group of the file unpacks to {max(unpacked) // 1024**2} MiB; write it with smaller row groups."
        )
    names = [str(name) for name in file.schema_arrow.names]
    if len(names) > MAX_COLUMNS:
        raise too_large(f"The table has {len(names)} columns; give at most {MAX_COLUMNS}.")

    def rows() -> Iterator[Row]:
        number = 0
        try:
            for batch in file.iter_batches(batch_size=256):
                for cells in batch.to_pylist():
                    number += 1
                    yield number, {str(name): _plain(value) for name, value in cells.items()}
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise unreadable(f"Row {number + 1} of the Parquet file cannot be read: {error}.") from error

    return Table(names, rows())


def _plain(value: object) -> Json:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {str(name): _plain(held) for name, held in cast("dict[object, object]", value).items()}
    if isinstance(value, list | tuple):
        return [_plain(held) for held in cast("list[object]", value)]
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    return str(value)
