"""A floor, the figure that was measured against it, and how both are shown."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Floor:
    """`at_least`: a figure below the bound misses it; else one above does."""

    name: str
    bound: float
    unit: str
    at_least: bool = False

    def is_met(self, figure: float) -> bool:
        return not math.isnan(figure) and (figure >= self.bound if self.at_least else figure <= self.bound)


@dataclass(frozen=True)
class Row:
    """One load. `figures`: of the floors that it is held against. Times in milliseconds."""

    load: str
    figures: Sequence[tuple[Floor, float]]
    p50_ms: float | None = None
    p99_ms: float | None = None
    errors: int = 0
    note: str = ""


def show(rows: Sequence[Row]) -> None:
    table = Table("load", "figure", "measured", "floor", "met", "p50 ms", "p99 ms", "errors", "note", title="Load")
    for row in rows:
        for number, (floor, figure) in enumerate(row.figures):
            first = number == 0
            table.add_row(
                row.load if first else "",
                floor.name,
                f"{figure:.4g} {floor.unit}",
                f"{'≥' if floor.at_least else '≤'} {floor.bound:g}",
                "yes" if floor.is_met(figure) else "NO",
                _shown(row.p50_ms) if first else "",
                _shown(row.p99_ms) if first else "",
                str(row.errors) if first else "",
                row.note if first else "",
            )
    Console(width=190).print(table)


def _shown(figure: float | None) -> str:
    return "" if figure is None else f"{figure:.0f}"


def line(rows: Sequence[Row]) -> str:
    """The last line: each floor's name with its figure, null where there is none, and `missed`."""
    figures = [figure for row in rows for figure in row.figures]
    shown: dict[str, object] = {
        floor.name: round(figure, 3) if math.isfinite(figure) else None for floor, figure in figures
    }
    missed = [floor.name for floor, figure in figures if not floor.is_met(figure)]
    return json.dumps({**shown, "missed": missed})
