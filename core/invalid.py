"""A body that does not validate, told in OpenAI's words: which field, what is wrong with it, what was found.

The web side says it of a request, and a worker of a line of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from core.errors import AttuneError

_SHOWN_INPUT = 60  # characters of a wrong value


def invalid(errors: Sequence[Mapping[str, Any]], body: object) -> AttuneError:
    """The first field that does not validate, with everything wrong about it.

    `errors`: pydantic's. A field that takes a number or "auto" fails once for each; both are told together.
    """
    first = errors[0]
    param = _param(first, body)
    alike = [error for error in errors if _param(error, body) == param]
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", "it is not JSON")
        message = f"We could not parse the JSON body of your request: {reason} at character {first['loc'][-1]}."
        return AttuneError(message, code="invalid_json")
    if param is None:
        return AttuneError(
            "The body of this request has to be a JSON object, sent with Content-Type: application/json.",
            code="invalid_body",
        )
    if first["type"] == "missing":
        return AttuneError(f"Missing required parameter: '{param}'.", code="missing_required_parameter", param=param)
    if first["type"] == "extra_forbidden":
        return AttuneError(f"Unknown parameter: '{param}'.", code="unknown_parameter", param=param)
    wrong = ", or ".join(dict.fromkeys(_reason(error) for error in alike))
    code = "invalid_type" if first["type"].endswith("_type") else "invalid_value"
    return AttuneError(f"Invalid value for '{param}': {wrong}{_found(first)}.", code=code, param=param)


def _param(error: Mapping[str, Any], body: object) -> str | None:
    """The dotted path of the field at fault; pydantic's names for the arms of a union are no part of it."""
    kind, *steps = error["loc"]
    if kind != "body":
        return str(steps[0]) if steps else None
    path = ""
    here = body
    for index, step in enumerate(steps):
        is_last = index == len(steps) - 1
        if isinstance(step, int) and isinstance(here, list):
            path += f"[{step}]"
            here = cast(list[object], here)[step] if step < len(cast(list[object], here)) else None
        elif isinstance(here, dict) and (step in here or (is_last and error["type"] == "missing")):
            path += f".{step}" if path else str(step)
            here = cast(dict[object, object], here).get(step)
    return path or None


def _reason(error: Mapping[str, Any]) -> str:
    text = str(error["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    if error["type"] == "literal_error":
        return str(error.get("ctx", {}).get("expected", text))
    return text


def _found(error: Mapping[str, Any]) -> str:
    value = error.get("input")
    if isinstance(value, bool) or value is None:
        return f" (found {str(value).lower() if value is not None else 'null'})"
    if isinstance(value, int | float | str):
        shown = repr(value) if isinstance(value, str) else str(value)
        return f" (found {shown if len(shown) <= _SHOWN_INPUT else shown[:_SHOWN_INPUT] + '…'})"
    return ""
