"""An answer under the name that was asked for: a server knows a model by its id, and the client knew an alias.

OpenAI's answers carry in `model` what answered; code that compares it knows the name it gave, so we say that one.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, cast

import httpx


async def renamed(answer: httpx.Response, name: str) -> AsyncIterator[bytes]:
    """The answer's bytes with `model` set to `name`, in a whole object or in each event of a stream."""
    if not answer.headers.get("content-type", "").startswith("text/event-stream"):
        yield _renamed(await answer.aread(), name)
        return
    rest = b""
    async for chunk in answer.aiter_bytes():
        # not aiter_lines, which breaks lines at characters that may stand within JSON
        *lines, rest = (rest + chunk).split(b"\n")
        if lines:
            yield b"".join(_event(line, name) + b"\n" for line in lines)
    yield rest


def _event(line: bytes, name: str) -> bytes:
    mark = b"data: "
    return mark + _renamed(line.removeprefix(mark), name) if line.startswith(mark + b"{") else line


def _renamed(text: bytes, name: str) -> bytes:
    try:
        content = json.loads(text)
    except ValueError:
        return text  # no JSON: nothing that carries a name
    if not isinstance(content, dict) or "model" not in content:
        return text
    found = cast(dict[str, Any], content)
    found["model"] = name
    return json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode()
