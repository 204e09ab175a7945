"""Two jobs over each other: their curves in one chart, and where their settings differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from api.dashboard.curves import BLUE, ORANGE, VIEWS, Curves, options
from api.dashboard.rest import Json

COLOURS = (BLUE, ORANGE)
_DASHES = {"train_loss": "solid", "valid_loss": "dashed", "full_valid_loss": "dotted"}
ABSENT = "—"


@dataclass(frozen=True)
class Difference:
    name: str
    values: tuple[str, str]


def overlaid(pair: list[tuple[str, Curves]], view: str, *, smoothing: float, is_log: bool) -> Json:
    """Options of a chart with the lines of both, a colour for each job. `pair`: names and what was measured."""
    charts = [options(curves, VIEWS[view], smoothing=smoothing, is_log=is_log) for _, curves in pair]
    keys = {line.name: line.key for line in VIEWS[view].lines}
    series: list[Json] = []
    for (name, _), chart, colour in zip(pair, charts, COLOURS, strict=True):
        for line in cast(list[Json], chart["series"]):
            line.pop("markPoint", None)  # the best of two jobs would be marked twice
            words = f"{name}: {line['name'].lower()}"
            dash = _DASHES.get(keys[line["name"]], "solid")
            line |= {"name": words, "lineStyle": {"width": 2, "color": colour, "type": dash}}
            series.append(line | {"itemStyle": {"color": colour}})
    grid = charts[0]["grid"] | {"top": 64}  # two jobs, two lines of legend on a phone
    legend = charts[0]["legend"] | {"type": "scroll", "icon": None, "itemWidth": 25}  # a line of each one's dashes
    return charts[0] | {"series": series, "grid": grid, "legend": legend}


def differences(first: Json, second: Json) -> list[Difference]:
    """What was chosen, resolved and came out differently, in the order of the job's own object."""
    settings = [_settings(job) for job in (first, second)]
    names = list(dict.fromkeys([*settings[0], *settings[1]]))
    found = [Difference(name, (settings[0].get(name, ABSENT), settings[1].get(name, ABSENT))) for name in names]
    return [one for one in found if one.values[0] != one.values[1]]


def _settings(job: Json) -> dict[str, str]:
    chosen: Json = {
        "base model": job["model"],
        "method": job["method"]["type"],
        "training file": job["training_file"],
        "validation file": job["validation_file"],
        "seed": job["seed"],
        **(job["attune"]["resolved"] or job["attune"]["requested"]),
    }
    return {name: value for name, value in _flat(chosen) if value != ABSENT}


def _flat(values: Json, within: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        words = f"{within} {name}".strip().replace("_", " ")
        if isinstance(value, dict):
            rows += _flat(cast(Json, value), words)
        else:
            rows.append((words, _shown(value)))
    return rows


def _shown(value: object) -> str:
    if value is None:
        return ABSENT
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(str(one) for one in cast(list[object], value))
    return str(value)
