"""Training files with a few bytes changed, read by `core.data` and by an independent reader: they have to agree."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

from core.data.examples import Checker
from core.errors import AttuneError
from tests.fuzz.strict_jsonl import Verdict, judge

USER = {"role": "user", "content": "Wo ist mein Paket? \U0001f4e6"}
ANSWER = {"role": "assistant", "content": "Auf dem Weg."}
CALL = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"order": 7}'}}
TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}
ROWS: list[list[object]] = [
    [{"messages": [USER, ANSWER]}],
    [{"messages": [USER, ANSWER]}] * 3,
    [{"messages": [{"role": "system", "content": "s"}, USER, ANSWER, USER, ANSWER]}],
    [{"messages": [USER, {**ANSWER, "weight": 0}, USER, {**ANSWER, "weight": 1}]}],
    [{"messages": [USER, {"role": "assistant", "tool_calls": [CALL]},
                   {"role": "tool", "tool_call_id": "c1", "content": "there"}, ANSWER], "tools": [TOOL]}],
    [{"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, ANSWER],
      "parallel_tool_calls": False}],
    [{"messages": [{"role": "developer", "content": "d", "name": "n"}, USER, {**ANSWER, "reasoning_content": "r"}]}],
    [{"prompt": "a", "completion": "b"}, {"prompt": "", "completion": " c"}],
    [{"text": "one"}, {"text": "two \u2028 \u0085"}],
    [{"input": {"messages": [USER]}, "preferred_output": [ANSWER],
      "non_preferred_output": [{"role": "assistant", "content": "no"}]}],
    [{"input": {"messages": [USER], "tools": [TOOL]}, "preferred_completion": [ANSWER],
      "non_preferred_completion": [{"role": "assistant", "content": "Nein."}]}],
    [{"messages": [USER, ANSWER], "x": [[[[1, -2.5, 1e5, True, None, {"y": "\\\":"}]]]]}],
    [{"messages": [USER, {"role": "assistant", "content": None, "refusal": None, "tool_calls": [CALL]}]}],
]  # fmt: skip
AS_TEXT = tuple("\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode() + b"\n" for rows in ROWS)
SEEDS = (
    *AS_TEXT,
    json.dumps(ROWS[0][0]).encode(),  # escaped, and no newline at the end
    b"\xef\xbb\xbf" + AS_TEXT[0],
    AS_TEXT[1].replace(b"\n", b"\r\n"),
    b'{ "messages" : [ { "role" : "user" , "content" : "q" } , {"role":"assistant","content":"a"} ] }\n\n \n',
    b'{"text":"\\ud83d\\udce6 \\u00e9 \\/ \\b"}\n{"text":"-9223372036854775808","n":9223372036854775807}\n',
    b'{"text":"deep","x":' + b"[" * 30 + b'"]["' + b"]" * 30 + b"}\n",
    b'{"text":"n","x":[0,-0,1.5E+3,1e308,-1e-400]}\n',
)
# What a byte is likely to mean something next to
PIECES = (b'"', b"\\", b"{", b"}", b"[", b"]", b":", b",", b"\n", b"\r", b" ", b"\t", b"\x00", b"\x01", b"\\u0000",
          b"\\ud800", b"\\udc00", b"\\u0061", b"NaN", b"-Infinity", b"1e400", b"9" * 25, b"null", b"true", b"0", b"-",
          b'"text":"x",', b'"weight":2,', b'"role":"user",', b"\xef\xbb\xbf", b"\xff", b"\xc0\xaf", b"\xed\xa0\x80",
          b"\xe2\x80\xa8", b"\xc2\x85", b"\x0b", b"\x0c", b"[" * 33, b"{}", b"[]", b'\\":', b'""')  # fmt: skip


@dataclass
class Tally:
    """`refused`, `faulty`, `good`: what the mutants came to, so that it shows that each was tried."""

    mutants: int = 0
    refused: int = 0
    faulty: int = 0
    good: int = 0
    seconds: float = 0.0
    disagreements: list[str] | None = None


def product(data: bytes, chunk: int) -> Verdict:
    """The service's verdict on a file that comes in pieces of `chunk` bytes."""
    checker = Checker(max_findings=10_000)
    try:
        for start in range(0, len(data), chunk):
            checker.feed(data[start : start + chunk])
        summary = checker.finish()
    except AttuneError as refused:
        if refused.code != "invalid_file_format":
            raise
        return Verdict(False)
    faulty = frozenset(finding.line for finding in summary.findings if finding.severity == "error")
    assert summary.examples == summary.lines - len(faulty)
    return Verdict(True, summary.lines, faulty)


def mutated(source: random.Random, seed: bytes) -> bytes:
    data = bytearray(seed)
    for _ in range(source.choice((1, 1, 1, 2, 3, 8))):
        at = source.randrange(len(data) + 1)
        match source.randrange(6):
            case 0:
                data[at : at + 1] = bytes((source.randrange(256),))
            case 1:
                data[at:at] = source.choice(PIECES)
            case 2:
                del data[at : at + source.choice((1, 1, 2, 5, 20))]
            case 3:
                data[at : at + 1] = source.choice(PIECES)
            case 4:
                data[at:at] = data[at : at + source.choice((1, 4, 16, 64))]
            case _:
                if at < len(data):
                    data[at] ^= 1 << source.randrange(8)
    return bytes(data)


def _all(count: int, source: random.Random) -> Iterator[bytes]:
    yield from SEEDS
    for number in range(count - len(SEEDS)):
        yield mutated(source, SEEDS[number % len(SEEDS)])


def compare(count: int, random_seed: int) -> Tally:
    """Both verdicts on the seeds and on mutants of them, `count` in all. A crash of ours is a disagreement."""
    source = random.Random(random_seed)
    tally = Tally(disagreements=[])
    assert tally.disagreements is not None
    started = time.monotonic()
    for data in _all(count, source):
        tally.mutants += 1
        expected = judge(data)
        tally.refused += not expected.is_jsonl
        tally.faulty += bool(expected.faulty)
        tally.good += expected.is_jsonl and not expected.faulty
        try:
            found: object = product(data, source.choice((1, 7, 4096)))
        except Exception as error:  # whatever it is, a user would have met it
            found = repr(error)
        if found != expected:
            tally.disagreements.append(f"{data!r}: {found}, and the other reader says {expected}")
    tally.seconds = time.monotonic() - started
    return tally
