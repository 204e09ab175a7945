"""Counts as bars in a table, so that they are read by eye and by screen reader alike."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlencode

from api.dashboard.blocks import link, tag, text
from api.dashboard.doctor.words import counted
from api.dashboard.rest import Json


def lengths(tokens: Json, file_id: str) -> None:
    """The histogram of a report against what the model takes; steps beyond the longest are left out."""
    rows = [
        (_range(step), step["count"], "too long" if step["from"] >= tokens["max_tokens"] and step["count"] else "")
        for step in _without_long_gaps(tokens["histogram"])
    ]
    _bars("Tokens", "Examples", rows)
    with tag("p", "small quiet"):
        text("span", f"{tokens['max_tokens']:,} tokens are taken. The longest example has {tokens['longest']:,}")
        if tokens["longest_line"] is not None:
            text("span", " on ")
            query = urlencode({"line": tokens["longest_line"], "model": tokens["model"]})
            link(f"/data/{file_id}/trained?{query}", label=f"line {tokens['longest_line']:,}")
        too_long = counted(tokens["too_long"], "is", "are") if tokens["too_long"] else "none is"
        text("span", f"; {too_long} too long.")


def languages(found: list[Json]) -> None:
    _bars("Language", "Examples", [(entry["language"], entry["count"], "") for entry in found])


def _without_long_gaps(steps: list[Json]) -> list[Json]:
    """The steps up to the last that has any, with those in a row that have none as one."""
    kept: list[Json] = []
    last = max((at for at, step in enumerate(steps) if step["count"]), default=0)
    for step in steps[: last + 1]:
        if kept and not step["count"] and not kept[-1]["count"]:
            kept[-1] = {**kept[-1], "to": step["to"]}
        else:
            kept.append(step)
    return kept


def _range(step: Json) -> str:
    return f"{step['from']:,} or more" if step["to"] is None else f"{step['from']:,} to {step['to'] - 1:,}"


def _bars(name: str, unit: str, rows: Sequence[tuple[str, int, str]]) -> None:
    """`rows`: what, how many, and a word of warning or none."""
    most = max((count for _, count, _ in rows), default=0) or 1
    with tag("table", "bars"):
        with tag("thead", "sr-only"), tag("tr"):
            for heading in (name, unit):
                text("th", heading).props('scope="col"')
        with tag("tbody"):
            for label, count, warning in rows:
                with tag("tr"):
                    text("th", label, "number").props('scope="row"')
                    with tag("td"), tag("div", "bar-row"):
                        with tag("div", "bar bad" if warning else "bar").props('aria-hidden="true"'):
                            tag("div").style(f"width: {100 * count / most:.1f}%")
                        text("span", f"{count:,}{f', {warning}' if warning else ''}", "number small")
