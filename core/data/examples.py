"""Reads the examples of a training file, strictly: a streamed upload with `Checker`, a checked file with
`iter_examples`. Both go through the same reading of one line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from core.data.conversation import Completion, Conversation, Example, Message, PreferencePair, Text, ToolCall
from core.errors import InvalidExample
from core.data.example_reader import Finding, read_line, read_messages
from core.data.jsonl import MAX_LINE_BYTES, LineSplitter
from core.data.plain_lines import plain_block, plain_example
from core.spec import Method

__all__ = [
    "Checker",
    "Completion",
    "Conversation",
    "Example",
    "Finding",
    "Message",
    "PreferencePair",
    "Summary",
    "Text",
    "ToolCall",
    "iter_examples",
    "must_fit",
    "read_line",
    "read_messages",
]

Kind = Literal["chat", "completion", "text", "preference", "mixed"]
_CHUNK_BYTES = 1024 * 1024
_CHECKED_LINE_BYTES = 256 * 1024 * 1024  # the upload's limit held already, whatever the operator set it to


@dataclass(frozen=True)
class Summary:
    """What a whole file came to. `findings` holds the first ones; `error_count` counts them all."""

    examples: int  # lines that can be trained on
    lines: int  # lines with text
    kind: Kind
    error_count: int
    findings: tuple[Finding, ...]


class Checker:
    """Checks a file as its bytes arrive, in constant memory.

    `feed` and `finish` raise `AttuneError` (invalid_file_format) for what is no JSONL; a faulty line becomes a
    finding. Of warnings the first of each kind is kept, so that they cannot crowd out the errors.
    """

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES, max_findings: int = 100) -> None:
        self._splitter = LineSplitter(max_line_bytes)
        self._max_findings = max_findings
        self._errors: list[Finding] = []
        self._warnings: dict[tuple[str, str | None], Finding] = {}
        self._error_count = 0
        self._lines = 0
        self._examples = 0
        self._kinds: set[Kind] = set()

    def feed(self, data: bytes) -> None:
        for block in self._splitter.blocks(data):
            plain = plain_block(block)
            if plain is None:
                for number, line in self._splitter.lines(block):
                    self._check(number, line)
            else:
                kind, count = plain
                self._splitter.passed(count)
                self._lines += count
                self._examples += count
                self._kinds.add(kind)

    def finish(self) -> Summary:
        for number, line in self._splitter.finish():
            self._check(number, line)
        kind = next(iter(self._kinds)) if len(self._kinds) == 1 else "mixed"
        findings = [*self._errors, *self._warnings.values()][: self._max_findings]
        return Summary(self._examples, self._lines, kind, self._error_count, tuple(findings))

    def _check(self, number: int, line: bytes) -> None:
        self._lines += 1
        if (plain := plain_example(line)) is not None:
            self._examples += 1
            self._kinds.add(_kind(plain))
            return
        example, findings = read_line(line, number)
        if example is not None:
            self._examples += 1
            self._kinds.add(_kind(example))
        for finding in findings:
            if finding.severity == "error":
                self._error_count += 1
                if len(self._errors) < self._max_findings:
                    self._errors.append(finding)
            elif len(self._warnings) < self._max_findings:
                self._warnings.setdefault((finding.code, finding.field), finding)


def iter_examples(source: Path | BinaryIO, max_line_bytes: int = _CHECKED_LINE_BYTES) -> Iterator[tuple[int, Example]]:
    """(line number, example) of a JSONL file. Raises `InvalidExample` at the first faulty line."""
    if isinstance(source, Path):
        with source.open("rb") as stream:
            yield from iter_examples(stream, max_line_bytes)
        return
    splitter = LineSplitter(max_line_bytes)
    while chunk := source.read(_CHUNK_BYTES):
        for number, line in splitter.feed(chunk):
            yield number, _example(line, number)
    for number, line in splitter.finish():
        yield number, _example(line, number)


def _example(line: bytes, number: int) -> Example:
    if (plain := plain_example(line)) is not None:
        return plain
    example, findings = read_line(line, number)
    if example is None:
        first = next(finding for finding in findings if finding.severity == "error")
        where = f"line {number}" + (f", {first.field}" if first.field else "")
        raise InvalidExample(f"{where}: {first.message}", code=first.code, line=number, field=first.field)
    return example


def must_fit(example: Example, method: Method, line: int) -> None:
    """Raises `InvalidExample` (wrong_method) for an example that the method does not train on."""
    is_pair = isinstance(example, PreferencePair)
    if is_pair == (method is Method.DPO):
        return
    if is_pair:
        message = "the example is a preference pair; use the method dpo, or give conversations"
    else:
        message = (
            'the method dpo trains on preference pairs, and this is none; give "input", "preferred_output" and '
            '"non_preferred_output", or use the method supervised'
        )
    raise InvalidExample(f"line {line}: {message}", code="wrong_method", line=line)


def _kind(example: Example) -> Kind:
    if isinstance(example, PreferencePair):
        return "preference"
    if isinstance(example, Conversation):
        return "chat"
    return "completion" if isinstance(example, Completion) else "text"
