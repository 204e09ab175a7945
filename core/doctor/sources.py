"""What kind of file this is: its format by its content, a text's encoding, a table's delimiter."""

from __future__ import annotations

import codecs
import csv
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import charset_normalizer

from core.doctor.orders import Format
from core.errors import AttuneError

SAMPLE_BYTES = 256 * 1024
MAX_UNPACKED_BYTES = 512 * 1024**2  # of a workbook, which is read whole
MAX_RATIO = 200  # unpacked to packed bytes; text in a workbook comes to 5 … 20
_READ_BYTES = 1024 * 1024
_DELIMITERS = ",;\t|"
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Of two hundred that Python knows, those that tables are saved in
_ENCODINGS = [
    "cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "koi8_r", "mac_roman",
    "shift_jis", "euc_jp", "gb18030", "big5", "euc_kr",
]  # fmt: skip
_TELLING_BYTES = 8
_PACKED = {
    b"\x1f\x8b": "gzip data",
    b"BZh": "bzip2 data",
    b"\xfd7zXZ": "xz data",
    b"\x28\xb5\x2f\xfd": "zstandard data",
    b"7z\xbc\xaf": "a 7-Zip archive",
}
_OTHERS = {b"%PDF": "a PDF document", b"\x89PNG": "a PNG image", b"\xff\xd8\xff": "a JPEG image"}


@dataclass(frozen=True)
class Source:
    """A file with what was found out about it. `encoding` and `delimiter` of those that have one."""

    path: Path
    format: Format
    encoding: str | None = None
    delimiter: str | None = None
    is_head: bool = False  # the file's first bytes alone


def unreadable(message: str) -> AttuneError:
    return AttuneError(message, code="unreadable_file", param="file_id")


def too_large(message: str) -> AttuneError:
    return AttuneError(message, code="file_too_large", param="file_id")


def recognise(
    path: Path,
    filename: str,
    *,
    format: Format | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    is_head: bool = False,
) -> Source:
    """What is given is believed, the rest is found out. Raises AttuneError (unreadable_file, file_too_large)."""
    with path.open("rb") as file:
        head = file.read(SAMPLE_BYTES)
    if not head.strip():
        raise unreadable("The file is empty.")
    packed = _binary_format(path, head)
    if packed is not None:
        if format not in (None, packed):
            raise unreadable(f"The file is {packed}, not {format}; leave format out or correct it.")
        return Source(path, packed)
    if format in ("xlsx", "parquet"):
        raise unreadable(f"The file is text, and no {format}; leave format out or correct it.")
    encoding = _checked_encoding(path, encoding, is_head) if encoding else _encoding(path, head, is_head)
    sample = codecs.getincrementaldecoder(encoding)("replace").decode(head)
    if format is None:
        format = _text_format(sample, filename)
    if format in ("csv", "tsv"):
        delimiter = delimiter or ("\t" if format == "tsv" else _delimiter(sample) or ",")
    else:
        delimiter = None
    return Source(path, format, encoding, delimiter, is_head)


def _binary_format(path: Path, head: bytes) -> Format | None:
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"PK\x03\x04"):
        _check_workbook(path)
        return "xlsx"
    if head.startswith(b"\xd0\xcf\x11\xe0"):
        raise unreadable(
            "The file is an old or password-protected Office document. Save it as .xlsx without a password, or as CSV."
        )
    for magic, name in _PACKED.items():
        if head.startswith(magic):
            raise unreadable(f"The file is {name}. Unpack it, and upload what is in it.")
    for magic, name in _OTHERS.items():
        if head.startswith(magic):
            raise unreadable(f"The file is {name}, which holds no examples. Give a table, JSON or text.")
    return None


def _check_workbook(path: Path) -> None:
    """A zip says how large its members are before one is unpacked; a workbook has a known member."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise unreadable(f"The file looks like a workbook but is damaged ({error}).") from error
    if not any(member.filename == "xl/workbook.xml" or member.filename == "xl/workbook.bin" for member in members):
        raise unreadable("The file is a zip archive and no Excel workbook. Unpack it, and upload what is in it.")
    unpacked = sum(member.file_size for member in members)
    packed = max(1, sum(member.compress_size for member in members))
    if unpacked > MAX_UNPACKED_BYTES or (unpacked > 16 * 1024**2 and unpacked / packed > MAX_RATIO):
        raise too_large(
            f"The workbook unpacks to {unpacked // 1024**2} MiB, {unpacked / packed:.0f} times its size. Save the "
            "sheet as CSV, or split it."
        )


def _decodes(path: Path, encoding: str, is_head: bool) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        with path.open("rb") as file:
            while block := file.read(_READ_BYTES):
                decoder.decode(block)
            decoder.decode(b"", final=not is_head)
    except (UnicodeDecodeError, UnicodeError):
        return False
    return True


def _checked_encoding(path: Path, encoding: str, is_head: bool) -> str:
    try:
        info = codecs.lookup(encoding)
        is_text = info._is_text_encoding  # as open() asks; hex and zip are codecs, too
    except LookupError:
        is_text = False
        info = None
    if info is None or not is_text:
        message = f"There is no encoding {encoding[:40]!r}; try utf-8, utf-16 or cp1252, or leave it out."
        raise AttuneError(message, code="invalid_value", param="encoding")
    if not _decodes(path, info.name, is_head):
        raise unreadable(f"The file is not {info.name}; leave encoding out, or give the right one.")
    return info.name


def _encoding(path: Path, head: bytes, is_head: bool) -> str:
    found = next((name for bom, name in _BOMS if head.startswith(bom)), None)
    if found is None and b"\x00" in head[:4096]:  # UTF-16 without a mark: every other byte of its ASCII is NUL
        odd, even = head[1:4096:2].count(0), head[0:4096:2].count(0)
        found = "utf-16-le" if odd > even else "utf-16-be"
    if found is None:
        found = "utf-8" if _decodes(path, "utf-8", is_head) else _guessed(head)
    if not _decodes(path, found, is_head):
        raise unreadable(f"The file is neither text nor a table that is known here (tried {found}).")
    return found


def _guessed(head: bytes) -> str:
    """The likeliest encoding; what few characters tell apart is taken for the usual one of the West."""
    if sum(byte > 127 for byte in head) < _TELLING_BYTES:
        return "cp1252"
    found = charset_normalizer.from_bytes(head[: 64 * 1024], cp_isolation=_ENCODINGS)
    best = found.best()
    if best is None or "cp1252" in best.could_be_from_charset:
        return "cp1252"
    return best.encoding


def _text_format(sample: str, filename: str) -> Format:
    start = sample.lstrip("\ufeff \t\r\n")
    ending = filename.rpartition(".")[2].lower()
    if start.startswith("["):
        return "json"
    if start.startswith("{"):
        first, _, rest = start.partition("\n")
        if ending == "json" and not rest.lstrip().startswith("{"):
            return "json"
        first = first.rstrip()
        return "jsonl" if first.endswith("}") or ending in ("jsonl", "ndjson") else "json"
    if ending in ("csv", "tsv"):
        return "tsv" if ending == "tsv" and "\t" in sample else "csv"
    if ending in ("txt", "md"):
        return "text"
    delimiter = _delimiter(sample)
    return "text" if delimiter is None else "tsv" if delimiter == "\t" else "csv"


def _delimiter(sample: str) -> str | None:
    """The character that cuts the first rows into the same number of cells, and more than one; None: no table."""
    text = sample if len(sample) < 64 * 1024 else sample[: 64 * 1024].rpartition("\n")[0]
    best, most = None, 1
    for delimiter in _DELIMITERS:
        try:
            reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
            counts = [len(row) for row, _ in zip(reader, range(50), strict=False) if row]
        except csv.Error:
            continue
        if not counts or counts[0] < 2:
            continue
        agreeing = sum(count == counts[0] for count in counts)
        if agreeing >= 0.8 * len(counts) and agreeing * counts[0] > most * len(counts):
            best, most = delimiter, counts[0]
    return best
