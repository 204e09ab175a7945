"""A line that is taken at a glance is one that the full reader takes too, and reads the same."""

from __future__ import annotations

import json
import random

import pytest

from core.data.examples import Completion, Conversation, Text, read_line
from core.data.plain_lines import plain_block, plain_example
from core.errors import AttuneError

KINDS: dict[type[object], str] = {Conversation: "chat", Completion: "completion", Text: "text"}
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
    assert plain_example(line) is not None


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
    assert plain_example(line) is None


def test_mutants_that_are_plain_are_good_to_the_reader() -> None:
    rng = random.Random(11)
    plain = 0
    for _ in range(40_000):
        line = bytearray(rng.choice(SEEDS))
        for _ in range(rng.randint(1, 2)):
            start = rng.randrange(len(line) + 1)
            line[start : start + rng.choice((0, 0, 1, 4))] = rng.choice((*PIECES, bytes(line[start : start + 14])))
        taken = plain_example(bytes(line))
        if taken is None:
            continue
        plain += 1
        try:
            example, findings = read_line(bytes(line), 1)
        except AttuneError:
            pytest.fail(f"the reader refuses {bytes(line)}")
        assert example is not None, bytes(line)
        assert not findings, bytes(line)
        assert taken == example
    assert plain > 1000


def test_a_plain_block_is_as_many_plain_lines() -> None:
    """Whatever msgspec makes of line ends: a block is plain only when each of its lines is, by itself."""
    rng = random.Random(12)
    plain = refused = 0
    for _ in range(20_000):
        seeds = rng.sample(SEEDS, 1) * rng.randint(1, 3)
        block = bytearray(b"".join(seed + b"\n" for seed in seeds))
        for _ in range(rng.randint(0, 2)):
            start = rng.randrange(len(block) + 1)
            pieces = (*PIECES, b"\n", b"}\n{", b"\r\n", bytes(block[start : start + 14]))
            block[start : start + rng.choice((0, 0, 1, 4))] = rng.choice(pieces)
        block += b"" if block.endswith(b"\n") else b"\n"
        found = plain_block(bytes(block))
        if found is None:
            refused += 1
            continue
        plain += 1
        lines = bytes(block).split(b"\n")[:-1]
        assert found[1] == len(lines), bytes(block)
        for line in lines:
            assert KINDS[type(plain_example(line))] == found[0], bytes(block)
            assert strictly_read(line), line
    assert plain > 1000
    assert refused > 1000


def strictly_read(line: bytes) -> bool:
    """Python's own parser, with every key looked at."""

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        assert len({key for key, _ in pairs}) == len(pairs), line
        assert not any(isinstance(value, str) and "\x00" in value for _, value in pairs)
        return dict(pairs)

    return isinstance(json.loads(line, object_pairs_hook=once), dict)


@pytest.mark.parametrize(
    "block",
    [
        b'{"text":"a"}{"text":"b"}\n\n',
        b'{"text":\n"a"}\n{"text":"b"}{"text":"c"}\n',
        b'{"text":"a"}\n\n{"text":"b"}{"text":"c"}\n',
        b'{"text":"a","t\\u0065xt":"b"}\n',
        b'{"text":"a\\u003ab","text":"c"}\n',
        b'{"text":"a"}\n{"prompt":"a","completion":"b"}\n',
    ],
)
def test_blocks_that_only_look_plain(block: bytes) -> None:
    assert plain_block(block) is None
