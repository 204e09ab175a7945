"""Training files as users send them: good ones, wrong formats, and every kind of faulty line."""

from __future__ import annotations

import gzip
import io
import json
import math
import random
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from core.errors import AttuneError, InvalidExample
from core.examples import (
    Checker,
    Completion,
    Conversation,
    Message,
    PreferencePair,
    Summary,
    Text,
    iter_examples,
    must_fit,
    read_messages,
)
from core.jsonl import Fault, Json, parse_line
from core.spec import Method

USER = '{"role":"user","content":"Hi"}'
GOOD = '{"messages":[' + USER + ',{"role":"assistant","content":"Hello"}]}'


def check(data: bytes | str, chunk: int = 0, **options: int) -> Summary:
    data = data.encode() if isinstance(data, str) else data
    checker = Checker(**options)
    for start in range(0, len(data), chunk or max(1, len(data))):
        checker.feed(data[start : start + chunk] if chunk else data)
    return checker.finish()


def answer(text: str = '"content":"Hello"', user: str = USER) -> str:
    return '{"messages":[' + user + ',{"role":"assistant",' + text + "}]}"


def refused(data: bytes | str, chunk: int = 0, **options: int) -> AttuneError:
    with pytest.raises(AttuneError) as caught:
        check(data, chunk, **options)
    error = caught.value
    assert (error.status, error.code, error.param) == (400, "invalid_file_format", "file")
    return error


def test_good_files_of_every_kind() -> None:
    assert check(f"{GOOD}\n{GOOD}\n") == Summary(2, 2, "chat", 0, ())
    assert check('{"prompt":"a","completion":"b"}').kind == "completion"
    assert check('{"text":"a"}\n').kind == "text"
    assert check(f'{GOOD}\n{{"text":"a"}}\n').kind == "mixed"


@pytest.mark.parametrize("chunk", [1, 2, 7, 64])
@pytest.mark.parametrize(
    "data",
    [
        f"{GOOD}\n{GOOD}",
        f"{GOOD}\n{GOOD}\n",
        f"{GOOD}\r\n{GOOD}\r\n",
        f"\ufeff{GOOD}\n{GOOD}\n",
        f"{GOOD}\n{GOOD}\n\n  \n\r\n",
        f"  {GOOD}\n\t{GOOD} ",
        answer('"content":"a\u2028b\u0085c\u000bd"'.replace("\u000b", "\\u000b")) + "\n" + GOOD,
    ],
)
def test_chunks_line_ends_and_byte_order_marks_do_not_matter(data: str, chunk: int) -> None:
    assert check(data, chunk) == check(data) == Summary(2, 2, "chat", 0, ())


def test_short_files() -> None:
    assert check('{"text":"a"}').examples == 1
    assert "Line 1 is not a dictionary" in refused("{}x").message
    assert check("{}").error_count == 1


ZIP = io.BytesIO()
with zipfile.ZipFile(ZIP, "w") as archive:
    archive.writestr("data.jsonl", GOOD)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (ZIP.getvalue(), "zip"),
        (gzip.compress(GOOD.encode(), mtime=0), "gzip"),  # no clock in it: every process must name the test alike
        (b"PAR1\x15\x04\x15", "Parquet"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "PNG"),
        (b"%PDF-1.7\n", "PDF"),
        (GOOD.encode("utf-16"), "UTF-16"),
        (GOOD.encode("utf-16-le"), "UTF-16"),
        (GOOD.encode("utf-16-be"), "UTF-16"),
    ],
)
@pytest.mark.parametrize("chunk", [0, 1, 5])
def test_other_formats_are_named(data: bytes, named: str, chunk: int) -> None:
    assert named in refused(data, chunk).message


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[" + GOOD + "]", "It is a list."),
        ("[\n" + GOOD + "\n]", 'starts with: "[")'),
        ('"text"', "It is a string."),
        ("null", "It is null."),
        ("17", "It is a number."),
        ('{"text":"a",}', "double quotes"),
        ("{'text':'a'}", "double quotes"),
        ('{"text":"a"}{"text":"b"}', "Extra data"),
        ('{"text":"a" "b"}', "delimiter"),
        ('{"text":"raw \x01 byte"}', "control character"),
        ('{"text":"raw \x00 byte"}', "control character"),
        ('{"text":"cut', "Unterminated"),
        ("text,label\na,b\n", 'starts with: "text,label"'),
        ("<html><script>alert(1)</script></html>", "<html><script>alert(1)</…"),
        ('{"text":"a","b":' + "[" * 31, "Expecting"),
    ],
)
def test_a_line_that_is_no_dictionary_refuses_the_file(line: str, reason: str) -> None:
    message = refused(line).message
    assert message.startswith(
        "Expected file to have JSONL format, where every line is a JSON dictionary. "
        'Line 1 is not a dictionary (HINT: line starts with: "'
    )
    assert reason in message
    assert "Line 3 is not a dictionary" in refused(f"{GOOD}\n{GOOD}\n{line}\n").message


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"\n\n  \r\n", "empty"),
        (b"\xef\xbb\xbf", "empty"),
        (f"{GOOD}\n\n{GOOD}\n".encode(), "Line 2 is blank"),
        (f"\n{GOOD}\n".encode(), "Line 1 is blank"),
        (f"{GOOD}\n".encode() + b'{"text":"\xff"}\n', "Line 2 is not UTF-8: byte 10 of the line is 0xff"),
        (b'{"text":"overlong \xc0\xaf"}\n', "not UTF-8"),
        (b'{"text":"surrogate \xed\xa0\x80"}\n', "not UTF-8"),
        (f"{GOOD}\n\ufeff{GOOD}\n".encode(), "Line 2 is not a dictionary"),
    ],
)
def test_broken_files_are_refused(data: bytes, reason: str) -> None:
    assert reason in refused(data).message
    assert reason in refused(data, 1).message


def test_a_long_line_is_refused_before_it_has_come_whole() -> None:
    limit = 10_000
    just = answer('"content":"' + "x" * (limit - len(answer('"content":""'))) + '"')
    assert check(f"{just}\n{just}", max_line_bytes=limit).examples == 2
    assert "Line 2 is longer than 10000 bytes" in refused(f"{just}\n{just} \n", max_line_bytes=limit).message
    checker = Checker()
    for _ in range(16):
        checker.feed(b"x" * 65536)
    with pytest.raises(AttuneError, match="Line 1 is longer than 1048576 bytes"):
        checker.feed(b"x")


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


MESSAGES = "messages[1]"
SHAPES = [
    ("{}", "missing_messages", "messages"),
    ('{"conversations":[{"from":"human","value":"Hi"}]}', "missing_messages", "messages"),
    ('{"prompt":"a"}', "missing_field", "completion"),
    ('{"completion":"a"}', "missing_field", "prompt"),
    ('{"prompt":1,"completion":"a"}', "wrong_type", "prompt"),
    ('{"prompt":"a","completion":""}', "empty_content", "completion"),
    ('{"text":["a"]}', "wrong_type", "text"),
    ('{"text":""}', "empty_content", "text"),
    ('{"prompt":"a","chosen":"b","rejected":"c"}', "missing_field", "completion"),
    ('{"chosen":[],"rejected":[]}', "missing_messages", "messages"),
    ('{"messages":[]}', "wrong_type", "messages"),
    ('{"messages":"Hi"}', "wrong_type", "messages"),
    ('{"messages":["Hi"]}', "wrong_type", "messages[0]"),
    ('{"messages":[{"from":"human","value":"Hi"}]}', "unknown_role", "messages[0].role"),
    (answer(user='{"role":"human","content":"Hi"}'), "unknown_role", "messages[0].role"),
    (answer(user='{"role":null,"content":"Hi"}'), "unknown_role", "messages[0].role"),
    (answer(user='{"role":"function","name":"f","content":"Hi"}'), "unknown_role", "messages[0].role"),
    (answer(user='{"role":"user"}'), "missing_content", "messages[0].content"),
    (answer(user='{"role":"user","content":null}'), "missing_content", "messages[0].content"),
    (answer(user='{"role":"user","content":3}'), "wrong_type", "messages[0].content"),
    (
        answer(user='{"role":"user","content":[{"type":"image_url","image_url":{}}]}'),
        "unsupported_content",
        "messages[0].content[0]",
    ),
    (answer(user='{"role":"user","content":["Hi"]}'), "unsupported_content", "messages[0].content[0]"),
    (answer(user='{"role":"user","content":"Hi","weight":0}'), "extra_weight", "messages[0].weight"),
    (answer(user='{"role":"user","content":"Hi","name":7}'), "wrong_type", "messages[0].name"),
    (answer(user='{"role":"user","content":"Hi","tool_calls":[1]}'), "unknown_field", "messages[0].tool_calls"),
    (answer(user='{"role":"user","content":"Hi","tool_call_id":"x"}'), "unknown_field", "messages[0].tool_call_id"),
    (answer('"content":null'), "missing_content", f"{MESSAGES}.content"),
    (answer('"content":"  "'), "empty_content", f"{MESSAGES}.content"),
    (answer('"content":"Hello","weight":2'), "invalid_weight", f"{MESSAGES}.weight"),
    (answer('"content":"Hello","weight":true'), "invalid_weight", f"{MESSAGES}.weight"),
    (answer('"content":"Hello","weight":"1"'), "invalid_weight", f"{MESSAGES}.weight"),
    (answer('"content":"Hello","weight":0.5'), "invalid_weight", f"{MESSAGES}.weight"),
    (answer('"content":"Hello","weigth":0'), "unknown_field", f"{MESSAGES}.weigth"),
    (answer('"content":"Hello","refusal":"No."'), "unknown_field", f"{MESSAGES}.refusal"),
    (answer('"content":"Hello","weight":0'), "no_supervised_tokens", "messages"),
    (answer('"tool_calls":"f()"'), "wrong_type", f"{MESSAGES}.tool_calls"),
    (answer('"tool_calls":[{"name":"f","arguments":"{}"}]'), "invalid_tool_call", f"{MESSAGES}.tool_calls[0]"),
    (
        answer('"tool_calls":[{"function":{"name":"f","arguments":"nothing"}}]'),
        "invalid_tool_call",
        f"{MESSAGES}.tool_calls[0].function.arguments",
    ),
    (
        answer('"tool_calls":[{"function":{"name":"f","arguments":"{\\"a\\":1,\\"a\\":2}"}}]'),
        "invalid_tool_call",
        f"{MESSAGES}.tool_calls[0].function.arguments",
    ),
    (
        answer('"tool_calls":[{"id":1,"function":{"name":"f","arguments":{}}}]'),
        "wrong_type",
        f"{MESSAGES}.tool_calls[0].id",
    ),
    ('{"messages":[' + USER + "]}", "no_assistant_message", "messages"),
    (
        '{"messages":[' + USER + ',{"role":"assistant","content":"a"},' + USER + "]}",
        "last_message_not_assistant",
        "messages[2].role",
    ),
    (GOOD[:-1] + ',"functions":[{}]}', "deprecated_field", "functions"),
    (GOOD[:-1] + ',"tools":{}}', "wrong_type", "tools"),
    (GOOD[:-1] + ',"tools":[{"name":"f"}]}', "invalid_tool", "tools[0]"),
    (GOOD[:-1] + ',"parallel_tool_calls":"yes"}', "wrong_type", "parallel_tool_calls"),
]


@pytest.mark.parametrize(("line", "code", "field"), SHAPES, ids=range(len(SHAPES)))
def test_faulty_examples_say_where_and_what_to_change(line: str, code: str, field: str | None) -> None:
    summary = check(f"{GOOD}\n{line}\n")
    errors = [finding for finding in summary.findings if finding.severity == "error"]
    assert [(finding.code, finding.field, finding.line) for finding in errors] in (
        [(code, field, 2)],
        [(code, field, 2), ("missing_content", f"{MESSAGES}.content", 2)],  # a call that cannot be read is no call
    )
    assert summary.examples == 1
    # What is wrong, and behind the comma or semicolon what to change
    assert any(mark in errors[0].message for mark in (";", " has to be ", " reads ", "only text"))
    with pytest.raises(InvalidExample) as caught:
        list(iter_examples(io.BytesIO(f"{GOOD}\n{line}\n".encode())))
    assert (caught.value.code, caught.value.field, caught.value.line) == (code, field, 2)
    assert caught.value.message.startswith("line 2")


def test_what_is_read() -> None:
    lines = [
        '{"messages":[{"role":"developer","content":""},'
        + USER
        + ',{"role":"assistant","content":"Hello","weight":0,"refusal":null,"annotations":[]},'
        '{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}],"name":"Ann"},'
        '{"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function","function":'
        '{"name":"f","arguments":{"x":1}}}]},{"role":"tool","tool_call_id":"c1","content":"2"},'
        '{"role":"assistant","content":"3","reasoning_content":"r"}],'
        '"tools":[{"type":"function","function":{"name":"f"}}],"parallel_tool_calls":false}',
        '{"prompt":"","completion":"b"}',
        '{"text":"t"}',
    ]
    read = list(iter_examples(io.BytesIO("\n".join(lines).encode())))
    assert [number for number, _ in read] == [1, 2, 3]
    conversation, completion, text = (example for _, example in read)
    assert isinstance(conversation, Conversation)
    roles = ["developer", "user", "assistant", "user", "assistant", "tool", "assistant"]
    assert [message.role for message in conversation.messages] == roles
    assert [message.weight for message in conversation.messages] == [1, 1, 0, 1, 1, 1, 1]
    assert conversation.messages[3] == Message("user", "a\nb", name="Ann")
    (call,) = conversation.messages[4].tool_calls
    assert (call.name, call.arguments, call.id) == ("f", '{"x":1}', "c1")
    assert conversation.messages[5].tool_call_id == "c1"
    assert conversation.messages[6].reasoning_content == "r"
    assert conversation.tools == ({"type": "function", "function": {"name": "f"}},)
    assert completion == Completion("", "b")
    assert text == Text("t")


def test_a_file_on_disk_is_read_alike(tmp_path: Path) -> None:
    path = tmp_path / "training.jsonl"
    path.write_text(f"{GOOD}\n" * 3)
    assert len(list(iter_examples(path))) == 3
    path.write_text("not JSON")
    with pytest.raises(AttuneError, match="Line 1 is not a dictionary"):
        list(iter_examples(path))


def test_all_errors_are_counted_and_the_first_hundred_kept() -> None:
    summary = check((GOOD + "\n" + answer('"content":"Hello","weight":2,"x":1') + "\n") * 300)
    assert (summary.examples, summary.lines, summary.error_count) == (300, 600, 600)
    assert len(summary.findings) == 100
    assert [finding.line for finding in summary.findings] == [line for line in range(2, 102, 2) for _ in range(2)]
    assert len(check("{}\n" * 9, max_findings=4).findings) == 4


def test_warnings_are_kept_once_and_behind_the_errors() -> None:
    noted = GOOD[:-1] + ',"id":7}'
    summary = check(f"{noted}\n{noted}\n{{}}\n{noted}\n")
    assert (summary.examples, summary.error_count) == (3, 1)
    assert [(finding.code, finding.line, finding.severity) for finding in summary.findings] == [
        ("missing_messages", 3, "error"),
        ("ignored_field", 1, "warning"),
    ]
    assert summary.findings[1].as_dict() == {
        "code": "ignored_field",
        "message": '"id" is not part of an example and is ignored; remove it or check its spelling',
        "line": 1,
        "field": "id",
        "severity": "warning",
    }


def test_memory_does_not_grow_with_the_file() -> None:
    bad = answer('"content":"Hello","weight":2,"x":1')
    block = f'{GOOD[:-1]},"id":7}}\n{bad}\n'.encode() * 200
    checker = Checker()
    checker.feed(block)
    tracemalloc.start()
    for _ in range(10):
        checker.feed(block)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 50_000
    assert checker.finish().lines == 400 * 11


def test_messages_of_a_request() -> None:
    read = read_messages([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": ""}])
    assert read.messages[1].content == ""
    for messages, param in (([], "messages"), ([{"role": "user"}], "messages[0].content"), ([3], "messages[0]")):
        with pytest.raises(AttuneError) as caught:
            read_messages(list[Json](messages))
        assert (caught.value.code, caught.value.param) == ("invalid_messages", param)
    with pytest.raises(AttuneError) as caught:
        read_messages([{"role": "user", "content": "Hi"}], [{}])
    assert caught.value.param == "tools[0]"


def verdict(line: bytes) -> str:
    """Independent of `core.jsonl`: what becomes of a line, by Python's parser and by hand."""
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


def pair(**changes: Json) -> str:
    """A preference pair with some of its keys changed, or left out where the change is ...."""
    good: dict[str, Json] = {
        "input": {"messages": [{"role": "user", "content": "Hi"}]},
        "preferred_output": [{"role": "assistant", "content": "Hello"}],
        "non_preferred_output": [{"role": "assistant", "content": "What?"}],
    }
    return json.dumps({key: value for key, value in {**good, **changes}.items() if value is not ...})


def answers(*contents: str) -> list[Json]:
    return [{"role": "assistant", "content": content} for content in contents]


HI: Json = {"role": "user", "content": "Hi"}


def test_c30_a_pair_reads_alike_in_both_spellings() -> None:
    older = pair(
        preferred_output=..., preferred_completion=answers("Hello"),
        non_preferred_output=..., non_preferred_completion=answers("What?"),
    )  # fmt: skip
    summary = check(f"{pair()}\n{older}\n")
    assert (summary.kind, summary.examples, summary.findings) == ("preference", 2, ())
    (_, first), (_, second) = iter_examples(io.BytesIO(f"{pair()}\n{older}".encode()))
    assert first == second
    assert isinstance(first, PreferencePair)
    assert (first.messages[0].content, first.preferred.content, first.non_preferred.content) == ("Hi", "Hello", "What?")
    assert check(f"{pair()}\n{GOOD}\n").kind == "mixed"


def test_of_a_pair_the_answers_alone_are_supervised() -> None:
    earlier: Json = {"messages": [HI, *answers("Hello"), {"role": "user", "content": "And?"}], "tools": []}
    ((_, read),) = iter_examples(io.BytesIO(pair(input=earlier).encode()))
    assert isinstance(read, PreferencePair)
    for conversation, text in zip(read.answered(), ("Hello", "What?"), strict=True):
        assert [message.weight for message in conversation.messages if message.role == "assistant"] == [0, 1]
        assert conversation.messages[-1].content == text


PAIRS: list[tuple[str, str, str]] = [
    (pair(input=...), "missing_field", "input"),
    (pair(input="Hi"), "missing_field", "input"),
    (pair(input={"message": []}), "missing_field", "input"),
    (pair(input={"messages": []}), "wrong_type", "input.messages"),
    (pair(input={"messages": [{"role": "human", "content": "Hi"}]}), "unknown_role", "input.messages[0].role"),
    (pair(input={"messages": [HI, *answers("Hello")]}), "last_message_is_assistant", "input.messages[1].role"),
    (pair(input={"messages": [HI], "tools": [{}]}), "invalid_tool", "input.tools[0]"),
    (pair(input={"messages": [HI], "functions": [{}]}), "deprecated_field", "input.functions"),
    (pair(preferred_output=...), "missing_field", "preferred_output"),
    (pair(non_preferred_output=...), "missing_field", "non_preferred_output"),
    (pair(preferred_output="Hello"), "wrong_type", "preferred_output"),
    (pair(preferred_output=[]), "wrong_type", "preferred_output"),
    (pair(preferred_output=answers("Hello", "there")), "wrong_length", "preferred_output"),
    (pair(preferred_output=[HI]), "wrong_role", "preferred_output[0].role"),
    (pair(preferred_output=answers("")), "empty_content", "preferred_output[0].content"),
    (
        pair(preferred_output=[{"role": "assistant", "content": "Hello", "weight": 0}]),
        "no_supervised_tokens",
        "preferred_output[0].weight",
    ),
    (pair(non_preferred_output=answers("Hello")), "identical_answers", "non_preferred_output"),
    (pair(preferred_completion=answers("Hello")), "given_twice", "preferred_completion"),
]


@pytest.mark.parametrize(("line", "code", "field"), PAIRS)
def test_faulty_pairs_are_found(line: str, code: str, field: str) -> None:
    summary = check(line)
    assert [(finding.code, finding.field) for finding in summary.findings] == [(code, field)]
    assert summary.error_count == 1


def test_an_example_has_to_fit_the_method() -> None:
    chat, preference = (example for _, example in iter_examples(io.BytesIO(f"{GOOD}\n{pair()}".encode())))
    must_fit(chat, Method.SUPERVISED, 1)
    must_fit(preference, Method.DPO, 2)
    for example, method in ((chat, Method.DPO), (preference, Method.SUPERVISED)):
        with pytest.raises(InvalidExample, match="line 7: ") as caught:
            must_fit(example, method, 7)
        assert (caught.value.code, caught.value.line) == ("wrong_method", 7)
