"""A line that is taken at a glance is one that the full reader takes too, and calls the same."""

from __future__ import annotations

import json
import random

import pytest

from core.errors import AttuneError
from core.examples import Completion, Conversation, Text, read_line
from core.plain_lines import plain_kind

KINDS = {Conversation: "chat", Completion: "completion", Text: "text"}
TURN = {"role": "user", "content": 'Say "so": a \\ and\n\tcafé'}
SEEDS = [
    json.dumps(seed, ensure_ascii=plain).encode()
    for plain in (True, False)
    for seed in (
        {"messages": [TURN, {"role": "assistant", "content": "Hi"}]},
        {"messages": [{"role": "system", "content": ""}, TURN, {"content": "x", "weight": 0, "role": "assistant"}] * 2},
        {"messages": [TURN, {"role": "assistant", "content": "a", "weight": 1}]},
        {"prompt": "a", "completion": "b"},
        {"text": 'a "b": c'},
    )
]
PIECES = (
    *(b'"', b"\\", b":", b",", b"{", b"}", b" ", b"\t", b"\r", b"\\u0000", b"\\ud83d", b"\xff", b"0", b"1"),
    *(b'"role":"user",', b'"weight":1,', b'"text":"a",', b'"content":"",', b'"r\\u006fle":"user",', b'"name":"x",'),
)


@pytest.mark.parametrize(
    "line",
    [
        b'{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}',
        b'{"messages": [{"content": "a", "role": "system"}, {"role": "assistant", "content": "b", "weight": 1}]}\r',
        b'{"prompt":"","completion":"b"}',
        b'{"text": "a \\"b\\": c"}',
    ],
)
def test_common_lines_are_plain(line: bytes) -> None:
    assert plain_kind(line) is not None


@pytest.mark.parametrize(
    "line",
    [
        b'{"messages":[]}',
        b'{"messages":[{"role":"user","content":"a"}]}',
        b'{"messages":[{"role":"assistant","content":"b"},{"role":"user","content":"a"}]}',
        b'{"messages":[{"role":"assistant","content":" \\n"}]}',
        b'{"messages":[{"role":"assistant","content":"b","weight":0}]}',
        b'{"messages":[{"role":"user","content":"a","weight":1},{"role":"assistant","content":"b"}]}',
        b'{"messages":[{"role":"user","role":"user","content":"a"},{"role":"assistant","content":"b"}]}',
        b'{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b","content" : "c"}]}',
        b'{"text":"a","text":"b"}',
        b'{"text":"a\\u0000"}',
        b'{"text":"\xff"}',
        b'{"text":""}',
    ],
)
def test_what_can_be_said_against_a_line_is_for_the_reader(line: bytes) -> None:
    assert plain_kind(line) is None


def test_mutants_that_are_plain_are_good_to_the_reader() -> None:
    rng = random.Random(11)
    plain = 0
    for _ in range(40_000):
        line = bytearray(rng.choice(SEEDS))
        for _ in range(rng.randint(1, 2)):
            start = rng.randrange(len(line) + 1)
            line[start : start + rng.choice((0, 0, 1, 4))] = rng.choice((*PIECES, bytes(line[start : start + 14])))
        kind = plain_kind(bytes(line))
        if kind is None:
            continue
        plain += 1
        try:
            example, findings = read_line(bytes(line), 1)
        except AttuneError:
            pytest.fail(f"the reader refuses {bytes(line)}")
        assert example is not None, bytes(line)
        assert not findings, bytes(line)
        assert KINDS[type(example)] == kind
    assert plain > 1000
