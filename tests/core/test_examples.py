"""Training files as users send them: good ones, wrong formats, and how their faults are counted and shown."""

from __future__ import annotations

import gzip
import io
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from core.data.examples import (
    Checker,
    Summary,
    iter_examples,
)
from core.errors import AttuneError
from tests.core.example_lines import GOOD, answer, check


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
