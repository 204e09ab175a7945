"""Every value that a job is trained with, and why it is this one."""

from __future__ import annotations

from collections.abc import Mapping

from api.dashboard.blocks import tag, text
from api.dashboard.rest import Json


def show_reasons(resolved: Json, reasons: Mapping[str, str], more: Mapping[str, str] | None = None) -> None:
    """`resolved`: the object that `reasons` speaks of, by its paths. `more`: what else there is to say."""
    with tag("dl", "reasons"):
        for path, reason in reasons.items():
            value = _value(resolved, path)
            text("dt", f"{path.replace('_', ' ').replace('.', ' ')}{f': {value}' if value else ''}")
            text("dd", reason)
        for name, words in (more or {}).items():
            text("dt", name)
            text("dd", words)


def _value(resolved: Json, path: str) -> str:
    """Empty for what is no one value: the texts of prompts, or something that was left out."""
    found: object = resolved
    for step in path.split("."):
        found = found.get(step) if isinstance(found, dict) else None
    if isinstance(found, bool):
        return "yes" if found else "no"
    if isinstance(found, float):
        return f"{found:g}"
    return str(found) if isinstance(found, int | str) else ""
