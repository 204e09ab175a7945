"""A multipart form read in pieces: small fields are kept, the bytes of its one file are handed on.

Bounds as CVE-2024-47874 and its like teach: few parts, small fields, short headers, one file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import unquote

from pydantic import Field
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from api.shapes.wire import Ours
from core.errors import AttuneError
from core.files.files import FINE_TUNE, UPLOAD_PURPOSES, clean_name

MAX_FIELDS = 8
MAX_FIELD_BYTES = 1024 * 1024
LIFETIME_S = (3600, 2_592_000)  # one hour to thirty days
_EXTENDED_NAME = re.compile(rb"filename\*\s*=\s*[\w-]+''([^;\s]+)")  # RFC 5987, which some old clients send


class Lifetime(Ours):
    """How long a file is kept; a form has the same as two fields."""

    anchor: Literal["created_at"]
    seconds: int = Field(ge=LIFETIME_S[0], le=LIFETIME_S[1])


def described(file_field: str, required: Sequence[str] = (), **fields: dict[str, Any]) -> dict[str, Any]:
    """The request body of a route that reads a form from the stream, for the API's description."""
    schema = {
        "type": "object",
        "required": [file_field, *required],
        "properties": {**fields, file_field: {"type": "string", "format": "binary"}},
    }
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


@dataclass(frozen=True)
class Limits:
    max_file_bytes: int
    max_line_bytes: int


class Form:
    """Takes a multipart body in pieces: fields are kept, the file's bytes are handed on by `take`."""

    def __init__(
        self, content_type: str | None, limits: Limits, *, file_field: str = "file", is_named: bool = True
    ) -> None:
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.file_bytes = 0
        self._limits = limits
        self._file_field = file_field
        self._is_named = is_named
        self._pieces: list[bytes] = []
        self._header_name = b""
        self._header_value = b""
        self._disposition = b""
        self._field: str | None = None  # of the part that is being read; None: it is the file
        self._value = bytearray()
        self._parts = 0
        self._is_complete = False
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise _bad_form("send the file as multipart/form-data with a boundary")
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._part_begins,
                    "on_header_field": self._header_field,
                    "on_header_value": self._header_text,
                    "on_header_end": self._header_ends,
                    "on_headers_finished": self._headers_end,
                    "on_part_data": self._data,
                    "on_part_end": self._part_ends,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise _bad_form(str(error)) from error

    def feed(self, data: bytes) -> None:
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise _bad_form(str(error)) from error

    def take(self) -> list[bytes]:
        pieces, self._pieces = self._pieces, []
        return pieces

    def finish(self) -> None:
        if not self._is_complete:
            raise _bad_form("it ends before its closing boundary, so the upload was cut short")
        if self.filename is None:
            raise AttuneError(
                f"Missing required parameter: '{self._file_field}'.",
                code="missing_required_parameter",
                param=self._file_field,
            )

    def _part_begins(self) -> None:
        self._parts += 1
        if self._parts > MAX_FIELDS + 1:
            raise _bad_form(f"it has more than {MAX_FIELDS} fields")
        self._header_name = self._header_value = self._disposition = b""
        self._value.clear()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _header_text(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _header_ends(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name = self._header_value = b""

    def _headers_end(self) -> None:
        _, options = parse_options_header(self._disposition.decode("latin-1"))
        name = options.get(b"name", b"").decode(errors="replace")
        filename = options.get(b"filename")
        if filename is None and (extended := _EXTENDED_NAME.search(self._disposition)):
            filename = unquote(extended[1].decode("latin-1")).encode()
        if filename is None and name == self._file_field and not self._is_named:
            filename = b""
        if filename is None:
            if name == self._file_field:
                raise AttuneError("'file' has to be sent as a file, with a file name.", code="bad_form", param="file")
            self._field = name
            return
        if name != self._file_field or self.filename is not None:
            field = self._file_field
            message = f"The form takes one file, in the part '{field}'."
            raise AttuneError(message, code="too_many_files", param=field)
        self._field = None
        self.filename = clean_name(filename.decode(errors="replace"))

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._field is None:
            self.file_bytes += end - start
            if self.file_bytes > self._limits.max_file_bytes:
                limit = self._limits.max_file_bytes / 1024**2
                message = f"The {self._file_field} is larger than {limit:g} MiB; split it into several."
                raise AttuneError(message, code="file_too_large", param=self._file_field, status=413)
            self._pieces.append(data[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > MAX_FIELD_BYTES:
            raise _bad_form(f"the field {self._field[:64]!r} is larger than {MAX_FIELD_BYTES // 1024} KiB")

    def _part_ends(self) -> None:
        if self._field is None:
            return
        if self._field in self.fields:
            raise _bad_form(f"the field {self._field[:64]!r} is given twice")
        try:
            self.fields[self._field] = self._value.decode()
        except UnicodeDecodeError as error:
            raise _bad_form(f"the field {self._field[:64]!r} is not UTF-8") from error
        if self._field == "purpose":
            check_purpose(self.fields["purpose"])

    def _end(self) -> None:
        self._is_complete = True


def check_purpose(purpose: str | None) -> None:
    if purpose is None:
        raise AttuneError("Missing required parameter: 'purpose'.", code="missing_required_parameter", param="purpose")
    if purpose not in UPLOAD_PURPOSES:
        raise AttuneError(
            f"'{purpose[:64]}' is not one of {list(UPLOAD_PURPOSES)}.", code="invalid_purpose", param="purpose"
        )


def check_name(filename: str, purpose: str, param: str) -> None:
    """Raises for a training file whose extension says that it is none."""
    if purpose == FINE_TUNE and "." in filename and not filename.lower().endswith(".jsonl"):
        extension = filename.rsplit(".", 1)[-1]
        raise AttuneError(
            f"Invalid extension .{extension}: files of the purpose '{FINE_TUNE}' are JSONL, and named .jsonl.",
            code="invalid_file_format",
            param=param,
        )


def lifetime(fields: dict[str, str]) -> int | None:
    """Seconds until the file expires, from expires_after[anchor] and expires_after[seconds]."""
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise AttuneError(
            "expires_after[anchor] has to be 'created_at'.", code="invalid_value", param="expires_after[anchor]"
        )
    least, most = LIFETIME_S
    if seconds is None or re.fullmatch(r"\d{1,9}", seconds) is None or not least <= int(seconds) <= most:
        raise AttuneError(
            f"expires_after[seconds] has to be a whole number from {least} to {most}.",
            code="invalid_value",
            param="expires_after[seconds]",
        )
    return int(seconds)


def _bad_form(what: str) -> AttuneError:
    return AttuneError(f"The multipart form cannot be read: {what}.", code="bad_form")
