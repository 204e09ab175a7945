"""The input file of a batch: one request a line, `{custom_id, method, url, body}`. Checked whole before any is sent.

https://platform.openai.com/docs/guides/batch
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from core.data.jsonl import Fault, Json, LineSplitter, parse_line
from core.errors import AttuneError

MAX_REQUESTS = 50_000
MAX_ID = 512  # characters of a custom_id
MAX_ERRORS = 100  # that are told of one file
_BLOCK_BYTES = 1024 * 1024
_MISSING = "missing_required_parameter"


@dataclass(frozen=True)
class BatchRequest:
    """One line, counted from 1."""

    line: int
    custom_id: str
    body: dict[str, Json]


@dataclass(frozen=True)
class BatchFault:
    """What is wrong with a line, or (line None) with the file."""

    code: str
    message: str
    line: int | None
    param: str | None = None


@dataclass(frozen=True)
class Checked:
    """`model`: what every line asks, None where they ask several."""

    total: int
    model: str | None
    faults: list[BatchFault]  # the first of them; empty: the file is good


def check(path: Path, endpoint: str, max_line_bytes: int) -> Checked:
    """Read the file once and say what is wrong with it."""
    faults: list[BatchFault] = []
    seen: dict[str, int] = {}
    models: set[str] = set()
    total = 0
    try:
        for line, raw in _lines(path, max_line_bytes):
            total = line
            if total > MAX_REQUESTS:
                message = f"The file has more than {MAX_REQUESTS} requests; split it into several batches."
                faults.append(BatchFault("too_many_requests", message, line))
                break
            found = _request(raw, line, endpoint)
            if isinstance(found, BatchRequest) and (first := seen.setdefault(found.custom_id, line)) != line:
                message = f"line {line}: the custom_id '{found.custom_id}' stands on line {first}, too; make it unique"
                found = BatchFault("duplicate_custom_id", message, line, "custom_id")
            if isinstance(found, BatchRequest):
                models.add(str(found.body["model"]))
            else:
                faults.append(found)
            if len(faults) >= MAX_ERRORS:
                break
    except AttuneError as error:  # the rest cannot be told apart into lines
        faults.append(BatchFault(error.code or "invalid_file_format", error.message, total + 1 if total else None))
    return Checked(total, models.pop() if len(models) == 1 else None, faults)


def requests(path: Path, after: int, max_line_bytes: int) -> Iterator[BatchRequest]:
    """The requests after the line `after`, of a file that has passed `check`."""
    for line, raw in _lines(path, max_line_bytes):
        if line > after:
            parsed = parse_line(raw, line)
            assert isinstance(parsed, dict)
            custom_id, body = parsed["custom_id"], parsed["body"]
            assert isinstance(custom_id, str)
            assert isinstance(body, dict)
            yield BatchRequest(line, custom_id, body)


def _lines(path: Path, max_line_bytes: int) -> Iterator[tuple[int, bytes]]:
    splitter = LineSplitter(max_line_bytes)
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            yield from splitter.feed(block)
    yield from splitter.finish()


def _request(raw: bytes, line: int, endpoint: str) -> BatchRequest | BatchFault:
    try:
        parsed = parse_line(raw, line)
    except AttuneError as error:
        return BatchFault("invalid_json_line", error.message, line)
    if isinstance(parsed, Fault):
        return BatchFault(parsed.code, f"line {line}: {parsed.message}", line, parsed.field)
    custom_id, body = parsed.get("custom_id"), parsed.get("body")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MAX_ID:
        message = f"line {line}: give custom_id, a text of 1 to {MAX_ID} characters that no other line has"
        return BatchFault(_MISSING if custom_id is None else "invalid_custom_id", message, line, "custom_id")
    if parsed.get("method") != "POST":
        code = _MISSING if parsed.get("method") is None else "invalid_method"
        return BatchFault(code, f"line {line}: the method has to be POST", line, "method")
    if parsed.get("url") != endpoint:
        code = _MISSING if parsed.get("url") is None else "mismatched_endpoint"
        message = f"line {line}: the url has to be the batch's endpoint, {endpoint}"
        return BatchFault(code, message, line, "url")
    if not isinstance(body, dict):
        code = _MISSING if body is None else "invalid_body"
        return BatchFault(code, f"line {line}: give body, the request as an object", line, "body")
    if not isinstance(body.get("model"), str):
        return BatchFault(_MISSING, f"line {line}: give body.model, the id of a model", line, "body.model")
    return BatchRequest(line, custom_id, body)
