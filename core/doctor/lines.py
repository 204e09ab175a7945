"""The lines of a JSONL file with how far one is in it: streamed, so that a file of any size takes no memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from core.data.conversation import Completion, Conversation, Example, PreferencePair
from core.data.jsonl import LineSplitter

Told = Callable[[str, float], None]  # (stage, share of it)
_READ_BYTES = 1024 * 1024
_MAX_LINE_BYTES = 256 * 1024**2  # the upload's own limit held already


def lines_of(path: str, told: Told, stage: str, begin: float = 0.0, end: float = 1.0) -> Iterator[tuple[int, bytes]]:
    """(line number, line). Tells of its way from `begin` to `end`. Raises AttuneError (invalid_file_format)."""
    splitter = LineSplitter(_MAX_LINE_BYTES)
    size = max(1, Path(path).stat().st_size)
    done = 0
    told(stage, begin)
    with Path(path).open("rb") as file:
        while block := file.read(_READ_BYTES):
            yield from splitter.feed(block)
            done += len(block)
            told(stage, begin + (end - begin) * done / size)
    yield from splitter.finish()


def kind_of_example(example: Example) -> str:
    if isinstance(example, Conversation):
        return "chat"
    if isinstance(example, PreferencePair):
        return "preference"
    return "completion" if isinstance(example, Completion) else "text"


def texts_of(example: Example) -> Iterator[tuple[str, str, str]]:
    """(field, role, text) of everything that a person wrote in an example."""
    if isinstance(example, Completion):
        yield "prompt", "user", example.prompt
        yield "completion", "assistant", example.completion
        return
    if isinstance(example, Conversation):
        named = [(f"messages[{index}]", message) for index, message in enumerate(example.messages)]
    elif isinstance(example, PreferencePair):
        named = [(f"input.messages[{index}]", message) for index, message in enumerate(example.messages)]
        named += [("preferred_output[0]", example.preferred), ("non_preferred_output[0]", example.non_preferred)]
    else:
        yield "text", "assistant", example.text
        return
    for field, message in named:
        if message.content is not None:
            yield f"{field}.content", message.role, message.content
        if message.reasoning_content:
            yield f"{field}.reasoning_content", message.role, message.reasoning_content
