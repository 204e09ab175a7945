"""Examples as they are trained: the tokens of `core.rendering`, each with its text and whether it is supervised."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import msgspec

from core.data.conversation import Example, PreferencePair
from core.data.example_reader import Finding, read_line
from core.doctor.findings import shown
from core.doctor.lines import kind_of_example
from core.doctor.orders import Show
from core.doctor.tokens import renderer_of
from core.errors import AttuneError, InvalidExample
from core.rendering.render import Rendered, Renderer

MAX_TOKENS = 4096  # listed of a sequence


def show(order: Show) -> dict[str, object]:
    renderer = renderer_of(order.base) if order.base else None
    data = [
        _example(line, number, renderer)
        for number, line in enumerate(Path(order.path).read_bytes().rstrip(b"\n").split(b"\n"), order.line)
    ]
    return {"data": data}


def _example(line: bytes, number: int, renderer: Renderer | None) -> dict[str, object]:
    sequences = None
    try:
        example, findings = read_line(line, number)
    except AttuneError as error:
        example, findings = None, [Finding(error.code or "invalid_file_format", error.message, number, None)]
    if example is not None and renderer is not None:
        try:
            sequences = _sequences(renderer, example)
        except AttuneError as error:
            field = error.field if isinstance(error, InvalidExample) else None
            findings.append(Finding(error.code or "invalid_example", error.message, number, field))
    return {
        "object": "attune.example",
        "line": number,
        "kind": None if example is None else kind_of_example(example),
        "example": None if example is None else msgspec.json.decode(line),
        "findings": [shown(finding) for finding in findings],
        "sequences": sequences,
    }


def _sequences(renderer: Renderer, example: Example) -> list[dict[str, object]]:
    rendered = renderer.render_example(example)
    labels: list[str | None] = [None] * len(rendered)
    if isinstance(example, PreferencePair):
        half = len(rendered) // 2
        labels = [*["preferred"] * half, *["non_preferred"] * (len(rendered) - half)]
    return [_sequence(renderer, each, label) for each, label in zip(rendered, labels, strict=True)]


def _sequence(renderer: Renderer, rendered: Rendered, label: str | None) -> dict[str, object]:
    texts = renderer.token_texts(rendered.token_ids)
    listed = list(zip(rendered.token_ids, texts, rendered.mask, strict=True))[:MAX_TOKENS]
    pieces: list[dict[str, object]] = []
    for supervised, run in groupby(listed, key=lambda token: token[2]):
        of_run = [text for _, text, _ in run]
        pieces.append({"text": "".join(of_run), "supervised": supervised, "tokens": len(of_run)})
    return {
        "label": label,
        "text": "".join(texts),
        "token_count": len(texts),
        "supervised_count": rendered.mask.count(True),
        "tokens": [{"id": id, "text": text, "supervised": supervised} for id, text, supervised in listed],
        "pieces": pieces,
    }
