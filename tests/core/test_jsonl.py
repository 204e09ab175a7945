"""What a line may be: what JSON allows and we do not, and an independent reader of mutated lines."""

from __future__ import annotations

import json
import math
import random

import pytest

from core.data.jsonl import Fault, parse_line
from core.errors import AttuneError
from tests.core.example_lines import GOOD, SHAPES, answer, check

DEEP = '{"text":"a","tools":' + "[" * 31 + "]" * 31 + "}"
FAULTS = [
    ('{"text":NaN}', "number_not_finite", "text"),
    ('{"text":"a","x":[1,-Infinity]}', "number_not_finite", "x[1]"),
    ('{"text":"a","x":1e400}', "number_not_finite", "x"),
    ('{"text":"a","x":' + "9" * 5000 + "}", "number_out_of_range", "x"),
    ('{"text":"a","x":9223372036854775808}', "number_out_of_range", "x"),
    ('{"text":"a","text":"b"}', "duplicate_key", "text"),
    ('{"text":"a", "t\\u0065xt" :"b"}', "duplicate_key", "text"),
    ('{"a\\\\":1,"b":1,"b":2}', "duplicate_key", "b"),
    (answer('"content":"Hello","content":"Bye"'), "duplicate_key", "messages[1].content"),
    ('{"text":"a\\u0000b"}', "null_character", "text"),
    (answer('"content":"\\ud800"'), "lone_surrogate", "messages[1].content"),
    ('{"text":"a","\\udc00":1}', "lone_surrogate", None),
    ('{"text":"a","x":' + "[" * 32 + "]" * 32 + "}", "too_deep", None),
    ('{"text":"a","x":' + "[" * 1000 + "]" * 1000 + "}", "too_deep", None),
    ('{"text":"a","x":' + '{"a":' * 100_000 + "1" + "}" * 100_000 + "}", "too_deep", None),
]


@pytest.mark.parametrize(("line", "code", "field"), FAULTS, ids=range(len(FAULTS)))
def test_what_json_allows_and_we_do_not(line: str, code: str, field: str | None) -> None:
    summary = check(f"{GOOD}\n{line}\n{GOOD}\n")
    assert (summary.examples, summary.lines, summary.error_count) == (2, 3, 1)
    (finding,) = summary.findings
    assert (finding.code, finding.field, finding.line, finding.severity) == (code, field, 2, "error")


@pytest.mark.parametrize(
    "line",
    [
        DEEP,
        '{"text":"escaped \\\\u0000 is text"}',
        '{"text":"a quote \\": and a colon"}',
        '{ "text" : "spaces" }',
        '{"text":"a \\\\\\": b"}',
        '{"text":"\\ud83d\\ude00"}',
        '{"text":"{{{{{{{{[[[[[[[[[[[[[[[[[[[[[[[[[[[[["}',
        '{"text":"a","x":[9223372036854775807,-9223372036854775808,1e308]}',
    ],
)
def test_what_only_looks_faulty_passes(line: str) -> None:
    assert check(line).error_count == 0


def verdict(line: bytes) -> str:
    """Independent of `core.data.jsonl`: what becomes of a line, by Python's parser and by hand."""
    duplicates: list[str] = []

    def pairs(items: list[tuple[str, object]]) -> dict[str, object]:
        keys = [key for key, _ in items]
        duplicates.extend(key for key in keys if keys.count(key) > 1)
        return dict(items)

    try:
        value = json.loads(line.decode(), object_pairs_hook=pairs)
    except (ValueError, RecursionError):
        return "refused"
    if not isinstance(value, dict):
        return "refused"
    faults, depth, stack = bool(duplicates), 0, [(value, 1)]
    while stack:
        item, level = stack.pop()
        if isinstance(item, dict | list):
            depth = max(depth, level)
        if isinstance(item, dict):
            stack += [(part, level + 1) for pair in item.items() for part in pair]
        elif isinstance(item, list):
            stack += [(part, level + 1) for part in item]
        elif isinstance(item, str):
            faults |= "\0" in item or any(0xD800 <= ord(character) < 0xE000 for character in item)
        elif isinstance(item, float):
            faults |= not math.isfinite(item)
        elif isinstance(item, int):
            faults |= not -(2**63) <= item < 2**63
    return "fault" if faults or depth > 32 else "good"


def test_mutants_are_judged_as_an_independent_reader_does() -> None:
    rng = random.Random(7)
    seeds = [line.encode() for line, *_ in FAULTS if len(line) < 500] + [DEEP.encode(), GOOD.encode()]
    seeds += [line.encode() for line, *_ in SHAPES]
    pieces = [
        b'"',
        b"\\",
        b":",
        b",",
        b"{",
        b"}",
        b"[",
        b"]",
        b" ",
        b"\\u0000",
        b"\\ud83d",
        b"1e999",
        b"NaN",
        b'"text":',
        b"\xe2\x80\xa8",
        b"\xff",
        b"0",
        b"-",
    ]
    seen = {"good": 0, "fault": 0, "refused": 0}
    for _ in range(20_000):
        line = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 3)):
            start = rng.randrange(len(line) + 1)
            line[start : start + rng.choice((0, 0, 1, 4))] = rng.choice((*pieces, bytes(line[start : start + 12])))
        expected, parsed = verdict(bytes(line)), None
        try:
            parsed = parse_line(bytes(line), 1)
            found = "fault" if isinstance(parsed, Fault) else "good"
        except AttuneError:
            found = "refused"
        if isinstance(parsed, Fault) and parsed.code == "too_deep" and expected == "refused":
            continue  # a line is not parsed as deep as it would take to see that it is broken too
        assert found == expected, bytes(line)
        seen[expected] += 1
    assert min(seen.values()) > 1000
