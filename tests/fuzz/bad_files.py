"""Bad inputs 1 to 58: uploads that are cut, slow, endless, misnamed, another format, or no training data."""

from __future__ import annotations

import base64
import io
import itertools
import json
import time
import zipfile
import zlib
from collections.abc import Callable

from core.models import File
from tests.api.place import examples
from tests.fuzz.subject import END, FILE_LIMIT, FORM, Answer, Subject, chunked, part

MIB = 1024 * 1024
GOOD = examples(1).rstrip()
PURPOSE = part("purpose", b"fine-tune")
FILE = part("file", b"", b"train.jsonl")
TYPE = f"Content-Type: {FORM}\r\n"
SIZE_S = 5.0  # what a case about size may take
Send = Callable[[Subject], None]
Case = tuple[int, str, Send, float]  # number, title, what is sent, seconds for each answer


def example(content: str) -> bytes:
    """A line whose answer is `content`, as JSON text."""
    return ('{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":' + content + "}]}").encode()


def extra(value: bytes) -> bytes:
    """A good line with a value that nothing reads."""
    return b'{"text":"a","x":' + value + b"}"


def messages(*turns: dict[str, object]) -> bytes:
    return json.dumps({"messages": turns}).encode()


def after_a_good_line(line: bytes) -> bytes:
    return GOOD + b"\n" + line + b"\n"


USER: dict[str, object] = {"role": "user", "content": "q"}
ANSWER: dict[str, object] = {"role": "assistant", "content": "a"}


# Transport


def no_key(s: Subject) -> None:
    answer = s.wire(itertools.repeat(bytes(65536)), headers=f"{TYPE}Content-Length: {1 << 30}\r\n", has_key=False)
    s.refused(answer, "API key", status=401)
    # besides the web side's 2 MiB, what lies in the buffers of two sockets
    s.holds(answer.sent < 16 * MIB, f"took {answer.sent} bytes without a key")


def announced_too_large(s: Subject) -> None:
    answer = s.wire((), headers=f"{TYPE}Content-Length: {FILE_LIMIT * 2}\r\n")
    s.refused(answer, f"{FILE_LIMIT // MIB + 1} MiB", status=413)


def announced_too_small(s: Subject) -> None:
    answer = s.wire([PURPOSE + FILE + GOOD + END], headers=f"{TYPE}Content-Length: 60\r\n")
    # Whichever is read first: the form that is cut, or the rest of it, which is no request
    s.refused(answer, "form" if b"invalid_http" not in answer.body else "HTTP/1.1")


def endless(s: Subject) -> None:
    line = examples(1, "fine " * 200)
    block = line * (MIB // len(line))
    pieces = itertools.chain([PURPOSE + FILE], itertools.repeat(block))
    answer = s.wire(chunked(pieces), headers=f"{TYPE}Transfer-Encoding: chunked\r\n")
    s.refused(answer, f"{FILE_LIMIT // MIB} MiB", "file", status=413)


def slow(s: Subject) -> None:
    pieces = itertools.chain([PURPOSE], itertools.repeat(b"x", 100))
    answer = s.wire(pieces, headers=f"{TYPE}Content-Length: 5000\r\n", pause_s=0.1)
    s.refused(answer, "slow", "bytes came in", status=408)


def other_encoding(s: Subject) -> None:
    squeezed = zlib.compress(PURPOSE + FILE + GOOD + END)
    s.refused(s.form(squeezed, **{"Content-Encoding": "gzip"}), "Content-Encoding", status=415)


def leaves_half_way(s: Subject) -> None:
    """No row and no object is left."""
    before = s.mine.left()
    body = PURPOSE + FILE + examples(500)
    s.wire([body], headers=f"{TYPE}Content-Length: {2 * len(body)}\r\n", leaves=True)
    time.sleep(0.3)
    s.accepted(s.call("GET", "/v1/files"))
    s.holds(s.mine.left() == before, "the cut upload left something")
    staged = [path for path in s.place.settings.data_dir.rglob("*") if ".staging" in path.parts and path.is_file()]
    s.holds(not staged, "the cut upload left a staged object")


def bad_boundaries(s: Subject) -> None:
    s.refused(s.form(PURPOSE + FILE + GOOD + END, **{"Content-Type": "multipart/form-data"}), "boundary")


def forms(*bodies: bytes, names: tuple[str, ...] = ("form",)) -> Send:
    def send(s: Subject) -> None:
        for body in bodies:
            s.refused(s.form(body), *names)

    return send


def bad_purposes(s: Subject) -> None:
    for purpose in ("nonsense", "", "fine-tune\x00", "p" * 5000):
        s.refused(s.upload(GOOD, purpose=purpose), "purpose", "fine-tune")


# Names: labels that are shown, and nothing more


def named(*names: bytes) -> Send:
    def send(s: Subject) -> None:
        for name in names:
            shown = s.accepted(s.upload(GOOD, name))
            if not shown:
                continue
            label = str(shown["filename"])
            s.holds(0 < len(label.encode()) <= 255, f"the label has {len(label)} characters")
            bad = [character for character in label if not character.isprintable() or character in "/\\"]
            s.holds(not bad, f"the label holds {bad}")
            with s.place.database.read() as session:
                row = session.get(File, shown["id"])
            s.holds(row is not None and row.storage_key.endswith(f"/files/{shown['id']}"), "its key is not its id")

    return send


def refused_name(s: Subject) -> None:
    """CRLF cannot be within a header: the form is broken by it, or the name cut."""
    answer = s.upload(GOOD, b"a\r\nX-Injected: 1\r\n.jsonl")
    s.refused(answer)
    s.holds("x-injected" not in answer.headers, "a header was injected")


def formula_name(s: Subject) -> None:
    shown = s.accepted(s.upload(GOOD, b"=cmd|' /C calc'!A0.jsonl"))
    answer = s.call("GET", f"/v1/files/{shown.get('id')}/content")
    s.accepted(Answer(answer.status, answer.headers, b"{}"))
    s.holds("attachment" in answer.headers.get("content-disposition", ""), "is not sent as an attachment")


def wrong_extensions(s: Subject) -> None:
    for name in (b"setup.exe", b"train.json", b"a.jsonl.sh"):
        s.refused(s.upload(GOOD, name), "extension", "file")


# Content that is something else


def zipped() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("train.jsonl", examples(10))
    return made.getvalue()


def bomb() -> bytes:
    """10 MiB of gzip that would come to 10 GiB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    piece = b"".join(packer.compress(bytes(MIB)) for _ in range(64)) + packer.flush()
    return piece * (10 * MIB // len(piece))


def content(made: Callable[[], bytes], *names: str) -> Send:
    return lambda s: s.refused(s.upload(made()), *names)


def byte_order_mark(s: Subject) -> None:
    shown = s.accepted(s.upload(b"\xef\xbb\xbf" + GOOD))
    s.holds(shown.get("status") == "processed", "a byte order mark at the start is refused")
    s.refused(s.upload(after_a_good_line(b"\xef\xbb\xbf" + GOOD)), "Line 2")


def page_with_script(s: Subject) -> None:
    page = b"<html><script>alert(1)</script></html>"
    s.refused(s.upload(page), "Line 1", "dictionary")
    shown = s.accepted(s.upload(page, b"x.html", "user_data"))
    headers = s.call("GET", f"/v1/files/{shown.get('id')}/content").headers
    s.holds("attachment" in headers.get("content-disposition", ""), "is shown in a browser")
    s.holds(headers.get("x-content-type-options") == "nosniff", "is sniffed")


# JSON lines


def refused_lines(*lines: bytes, names: tuple[str, ...] = ("Line 2",)) -> Send:
    def send(s: Subject) -> None:
        for line in lines:
            s.refused(s.upload(after_a_good_line(line)), *names)

    return send


def reported_lines(code: str, *lines: bytes, field: str | None = None) -> Send:
    def send(s: Subject) -> None:
        for line in lines:
            s.reported(s.upload(after_a_good_line(line)), code, 2, field)

    return send


def good_lines(*lines: bytes) -> Send:
    def send(s: Subject) -> None:
        for line in lines:
            shown = s.accepted(s.upload(after_a_good_line(line)))
            found = (shown.get("status"), (shown.get("attune") or {}).get("examples"))
            s.holds(found == ("processed", 2), f"{line[:60]!r} is read as {found}")

    return send


def array_file(s: Subject) -> None:
    rows = [json.loads(GOOD)] * 3
    for text in (json.dumps(rows), json.dumps(rows, indent=1)):
        s.refused(s.upload(text.encode()), "Line 1", "dictionary")


def not_utf8(s: Subject) -> None:
    broken = example('"caf\u00e9"').decode().encode("latin-1")
    s.refused(s.upload(after_a_good_line(broken)), "Line 2", f"byte {broken.index(0xE9) + 1}", "0xe9")


def deep(s: Subject) -> None:
    for depth in (33, 1000, 200_000):
        line = extra(b"[" * depth + b"]" * depth)
        s.reported(s.upload(after_a_good_line(line)), "too_deep", 2)


def long_lines(s: Subject) -> None:
    s.refused(s.upload(after_a_good_line(example('"' + "a" * MIB + '"'))), "Line 2", str(MIB))
    pieces = itertools.chain([PURPOSE + FILE], itertools.repeat(b"a" * MIB, 500))
    answer = s.wire(pieces, headers=f"{TYPE}Content-Length: {FILE_LIMIT}\r\n")
    s.refused(answer, "Line 1", str(MIB))
    s.holds(answer.sent < 32 * MIB, f"took {answer.sent} bytes of a line without an end")


def carriage_returns(s: Subject) -> None:
    shown = s.accepted(s.upload(examples(3).replace(b"\n", b"\r\n")))
    s.holds((shown.get("attune") or {}).get("examples") == 3, "lines that end in CRLF are not read")


def wrong_contents(s: Subject) -> None:
    s.reported(s.upload(example("null")), "missing_content", 1, "messages[1].content")
    s.reported(s.upload(example("7")), "wrong_type", 1, "messages[1].content")
    s.reported(s.upload(example("[7]")), "unsupported_content", 1, "messages[1].content[0]")


def without_an_answer(s: Subject) -> None:
    s.reported(s.upload(messages(USER)), "no_assistant_message", 1, "messages")
    s.reported(s.upload(messages(USER, ANSWER, USER)), "last_message_not_assistant", 1, "messages[2].role")


def empty_weighted_and_many(s: Subject) -> None:
    s.reported(s.upload(example('""')), "empty_content", 1, "messages[1].content")
    s.reported(s.upload(messages(USER, {**ANSWER, "weight": 2})), "invalid_weight", 1, "messages[1].weight")
    many = s.reported(s.upload(b"{}\n" * 200_000), "missing_messages", 1)
    s.holds(len((many.get("attune") or {}).get("findings", [])) == 100, "not the first 100 findings are shown")
    s.holds("199999 more" in str(many.get("status_details")), f"the total is not told: {many.get('status_details')}")


CASES: list[Case] = [
    (1, "no key, and a gigabyte", no_key, SIZE_S),
    (2, "Content-Length beyond the limit", announced_too_large, 1),
    (3, "Content-Length that is too small", announced_too_small, 1),
    (4, "chunks without end", endless, SIZE_S),
    (5, "a body that drips", slow, SIZE_S),
    (6, "no file part", forms(PURPOSE + END, names=("file",)), 1),
    (7, "two file parts", forms(PURPOSE + part("file", GOOD, b"a.jsonl") * 2 + END, names=("one file", "file")), 1),
    (8, "1,001 fields", forms(b"".join(part(f"f{n}", b"") for n in range(1001)) + END), 1),
    (9, "a text field of 10 MiB", forms(part("purpose", b"p" * 10 * MIB) + END, names=("purpose", "KiB")), SIZE_S),
    (10, "no boundary", bad_boundaries, 1),
    (11, "a boundary of 10 kB", lambda s: s.refused(
        s.form(END, **{"Content-Type": f"multipart/form-data; boundary={'b' * 10_000}"}), "oundary", "256"), 1),
    (12, "a form that is cut", forms(PURPOSE + FILE + GOOD, (PURPOSE + FILE + GOOD + END)[:-4], names=("cut",)), 1),
    (13, "a part header of 1 MiB", forms(b"\r\n--x\r\nh: " + b"v" * MIB + b"\r\n\r\n" + END), SIZE_S),
    (14, "an unknown purpose", bad_purposes, 1),
    (15, "an empty file", lambda s: s.refused(s.upload(b""), "empty", "file"), 1),
    (16, "a compressed body", other_encoding, 1),
    (17, "a client that leaves half way", leaves_half_way, SIZE_S),
    (18, "an extension that is none", wrong_extensions, 1),
    (19, "../../etc/passwd", named(b"../../etc/passwd.jsonl", b"../../etc/passwd", b"/"), 1),
    (20, "C:\\x", named(b"C:\\x\\y.jsonl", b"C:\\"), 1),
    (21, "NUL in a name", named(b"a\x00b.jsonl"), 1),
    (22, "CRLF in a name", refused_name, 1),
    (23, "a name of 4 kB", named(b"n" * 4000), 1),
    (24, "a name that turns direction", named("a\u202eb\u200bc.jsonl".encode()), 1),
    (25, "a name that is a formula", formula_name, 1),
    (26, "a name that is no UTF-8", named(b"\xff\xfe\xe9.jsonl"), 1),
    (27, "a zip", content(zipped, "zip", "file"), 1),
    (28, "a gzip bomb of 10 GiB", content(bomb, "gzip", "file"), SIZE_S),
    (29, "Parquet", content(lambda: b"PAR1" + bytes(5000) + b"PAR1", "Parquet"), 1),
    (30, "a PNG", content(lambda: b"\x89PNG\r\n\x1a\n" + base64.b64decode("AAAADUlIRFIAAAAB"), "PNG"), 1),
    (31, "UTF-16", content(lambda: GOOD.decode().encode("utf-16"), "UTF-16", "UTF-8"), 1),
    (32, "a byte order mark", byte_order_mark, 1),
    (33, "HTML with a script", page_with_script, 1),
    (34, "a trailing comma", refused_lines(b'{"text":"a",}'), 1),
    (35, "single quotes", refused_lines(b"{'text':'a'}"), 1),
    (36, "two objects on a line", refused_lines(b'{"text":"a"}{"text":"b"}', b'{"text":"a"} {"text":"b"}'), 1),
    (37, "an array", array_file, 1),
    (38, "a bare string", refused_lines(b'"text"', b"null", b"7", b"true", names=("Line 2", "dictionary")), 1),
    (39, "blank lines only", content(lambda: b"\n \n\r\n", "empty"), 1),
    (40, "NaN", reported_lines("number_not_finite", extra(b"NaN"), field="x"), 1),
    (41, "Infinity", reported_lines("number_not_finite", extra(b"Infinity"), extra(b"-Infinity")), 1),
    (42, "1e400", reported_lines("number_not_finite", extra(b"1e400")), 1),
    (43, "a number of 5,000 digits", reported_lines("number_out_of_range", extra(b"9" * 5000)), 1),
    (44, "a key that stands twice", reported_lines(
        "duplicate_key", b'{"text":"a","text":"b"}', b'{"text":"a","\\u0074ext":"b"}', field="text"), 1),
    (45, "half of a surrogate pair", reported_lines("lone_surrogate", example('"\\ud800"'), example('"\\udc00x"')), 1),
    (46, "\\u0000", reported_lines("null_character", b'{"text":"a\\u0000"}', field="text"), 1),
    (47, "a raw control byte", refused_lines(b'{"text":"a\x01"}', b'{"text":"a\tb"}', b'{"text":"\x00"}'), 1),
    (48, "no UTF-8", not_utf8, 1),
    (49, "UTF-8 that is too long", refused_lines(b'{"text":"\xc0\xaf"}', b'{"text":"\xe0\x80\xaf"}'), 1),
    (50, "33, 1,000 and 200,000 deep", deep, SIZE_S),
    (51, "lines of 1 MiB and of 500 MB", long_lines, SIZE_S),
    (52, "U+2028 is no line's end", good_lines(example('"a\u2028b\u0085c"'), example('"a\\u2028b"')), 1),
    (53, "CRLF", carriage_returns, 1),
    (54, "no messages", reported_lines("missing_messages", b'{"a":1}', b'{"conversations":[]}', field="messages"), 1),
    (55, "an unknown role", reported_lines(
        "unknown_role", messages({"role": "robot", "content": "x"}, ANSWER), field="messages[0].role"), 1),
    (56, "contents of the wrong type", wrong_contents, 1),
    (57, "no answer to learn", without_an_answer, 1),
    (58, "empty answers, weight 2, 200,000 faulty lines", empty_weighted_and_many, SIZE_S),
]  # fmt: skip
