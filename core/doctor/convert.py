"""A foreign file as it would be read, and as JSONL of ours: one line for each row of which an example can be made."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from core.data.example_reader import Finding, read_line
from core.data.jsonl import MAX_LINE_BYTES, Json
from core.doctor import mapping as mappings
from core.doctor import sources, tables
from core.doctor.findings import Findings, shown
from core.doctor.mapping import RowFault
from core.doctor.orders import Convert, Mapping, Preview, Reading
from core.doctor.sources import Source
from core.doctor.tables import Cells, Row, Table
from core.errors import AttuneError

SAMPLE_ROWS = 20
MAX_SHOWN_CHARS = 2000
MAX_SAMPLE_CHARS = 200
_REPORT_EVERY = 500  # rows


@dataclass(frozen=True)
class _Opened:
    source: Source
    table: Table
    rows: Iterator[Row]
    mapping: Mapping | None
    is_recognised: bool
    sample: list[Row]

    def described(self) -> dict[str, object]:
        return {
            "format": self.source.format,
            "encoding": self.source.encoding,
            "delimiter": self.source.delimiter,
            "sheet": self.table.sheet,
            "mapping": None if self.mapping is None else msgspec.to_builtins(self.mapping),
        }


def _open(path: str, filename: str, reading: Reading, *, is_head: bool = False) -> _Opened:
    source = sources.recognise(
        Path(path),
        filename,
        format=reading.format,
        encoding=reading.encoding,
        delimiter=reading.delimiter,
        is_head=is_head,
    )
    table = tables.open_table(source, reading.sheet)
    sample = list(itertools.islice(table.rows, SAMPLE_ROWS))
    found = reading.mapping
    if found is None:
        found = mappings.recognise(table.columns, [cells for _, cells in sample if isinstance(cells, dict)])
    else:
        mappings.check(found, table.columns)
    return _Opened(source, table, itertools.chain(sample, table.rows), found, reading.mapping is None, sample)


def preview(order: Preview) -> dict[str, object]:
    """The answer of /v1/attune/conversions/preview, less the file's id. Raises AttuneError."""
    opened = _open(order.path, order.filename, order.reading, is_head=order.is_head)
    rows: list[dict[str, object]] = []
    whole: list[dict[str, object]] = []
    for number, cells in itertools.islice(opened.rows, order.limit):
        if isinstance(cells, Finding):
            whole.append(shown(cells))
            continue
        example, findings = _try(number, cells, opened.mapping)
        rows.append(
            {
                "row": number,
                "cells": {name: _cell(value) for name, value in cells.items()},
                "example": example,
                "findings": [shown(finding) for finding in findings],
            }
        )
    columns = [{"name": name, "samples": _samples(name, opened.sample)} for name in opened.table.columns]
    return {
        **opened.described(),
        "sheets": opened.table.sheets,
        "columns": columns,
        "recognised": opened.is_recognised and opened.mapping is not None,
        "rows": rows,
        "findings": whole,
    }


def convert(order: Convert, progress: Callable[[str, float], None]) -> dict[str, object]:
    """Write the examples to `out`. Raises AttuneError (mapping_needed, nothing_to_convert, …)."""
    opened = _open(order.path, order.filename, order.reading)
    if opened.mapping is None:
        raise AttuneError(
            "The columns are none that are known here: choose what holds the question and the answer. There are: "
            f"{', '.join(opened.table.columns)[:400]}.",
            code="mapping_needed",
            param="mapping",
        )
    findings = Findings()
    rows = examples = 0
    size = max(1, opened.source.path.stat().st_size)
    written = 0
    with Path(order.out).open("wb") as out:
        for number, cells in opened.rows:
            rows += 1
            if rows % _REPORT_EVERY == 0:
                progress("reading", min(0.99, written / size))  # what is read is not told by every reader
            if isinstance(cells, Finding):
                findings.add(cells)
                continue
            example, found = _try(number, cells, opened.mapping)
            findings.extend(found)
            if example is not None:
                line = msgspec.json.encode(example)
                out.write(line + b"\n")
                written += len(line)
                examples += 1
    if not examples:
        first = findings.chosen()
        hint = f" The first row says: {first[0].message}." if first else ""
        raise AttuneError(f"No row gives an example.{hint}", code="nothing_to_convert", param="mapping")
    return {
        **opened.described(),
        "rows": rows,
        "examples": examples,
        "skipped": rows - examples,
        **findings.described(),
    }


def _try(number: int, cells: Cells, mapping: Mapping | None) -> tuple[dict[str, Json] | None, list[Finding]]:
    """(the row's example, what is wrong with the row or with its example). No example: the row is left out."""
    if mapping is None:
        return None, []
    try:
        example = mappings.to_example(cells, mapping)
        line = msgspec.json.encode(example)
    except RowFault as fault:
        severity = "hint" if fault.code == "empty_row" else "warning"
        return None, [Finding(fault.code, fault.message, number, fault.column, severity)]
    except (msgspec.EncodeError, UnicodeEncodeError, OverflowError, RecursionError, ValueError):
        message = "the row holds a number or text that JSON cannot hold; correct it"
        return None, [Finding("unusable_row", message, number, None, "warning")]
    if len(line) > MAX_LINE_BYTES:
        message = f"the row makes a line of more than {MAX_LINE_BYTES} bytes; split it"
        return None, [Finding("row_too_long", message, number, None, "warning")]
    try:
        _, found = read_line(line, number)
    except AttuneError as error:
        return None, [Finding("unusable_row", error.message, number, None, "warning")]
    return example, found


def _cell(value: Json) -> str:
    text = value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_SHOWN_CHARS else text[:MAX_SHOWN_CHARS] + "…"


def _samples(column: str, rows: list[Row]) -> list[str]:
    texts = [_cell(cells.get(column))[:MAX_SAMPLE_CHARS] for _, cells in rows if isinstance(cells, dict)]
    return [text for text in texts if text.strip()][:3]
