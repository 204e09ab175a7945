"""How records are printed: a table for people, JSON for programs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, TypeVar

import typer
from openai import BaseModel
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cli.connection import screen

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RecordT = TypeVar("RecordT", bound=BaseModel)
_UNITS = (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3))


def print_json(record: BaseModel | Sequence[BaseModel]) -> None:
    plain = record.to_dict() if isinstance(record, BaseModel) else [one.to_dict() for one in record]
    typer.echo(json.dumps(plain, indent=2, default=str))


def print_table(
    records: Sequence[RecordT], columns: Mapping[str, Callable[[RecordT], object]], console: Console = screen
) -> None:
    """One row a record; `columns` maps a heading to what stands below it. None is shown as nothing."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, heading in enumerate(columns):
        table.add_column(heading, overflow="fold", no_wrap=place == 0)  # the first is an id, to be copied whole
    for record in records:
        cells = (cell(record) for cell in columns.values())
        table.add_row(*("" if value is None else escape(str(value)) for value in cells))
    console.print(table)


def print_fields(fields: Mapping[str, object]) -> None:
    """One line a field; fields without a value are left out."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in fields.items():
        if value is not None:
            table.add_row(name, escape(str(value)))
    screen.print(table)


def when(seconds: float | None) -> str | None:
    """A time since the epoch, in this machine's zone."""
    return None if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def count(number: float | None) -> str | None:
    """1234567 -> 1.2M"""
    if number is None:
        return None
    # 0.9995: what rounds up to a thousand of one unit is one of the next
    found = ((unit, size) for unit, size in _UNITS if number >= 0.9995 * size)
    unit, size = next(found, ("", 1.0))
    return f"{number / size:.3g}{unit}"
