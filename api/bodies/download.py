"""An object as a download: streamed with `Range`, or by the store's signed address where it has a public one."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass

from fastapi import Request
from fastapi.responses import RedirectResponse, Response, StreamingResponse

from core.errors import AttuneError
from core.store.presign import attachment
from core.store.storage import Storage

SIGNED_S = 3600
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


@dataclass(frozen=True)
class Download:
    key: str
    bytes: int
    sha256: str
    filename: str
    media_type: str = "application/octet-stream"


def hand_out(request: Request, storage: Storage, download: Download, *, may_redirect: bool) -> Response:
    """200 with all, 206 with the asked range, 307 to the store, or the 416 of a range beyond the end."""
    if may_redirect and (url := storage.signed_url(download.key, SIGNED_S, download.filename)) is not None:
        return RedirectResponse(url, status_code=307)
    etag = f'"{download.sha256}"'
    headers = {
        "accept-ranges": "bytes",
        "cache-control": "private, no-cache",
        "content-disposition": attachment(download.filename),
        "etag": etag,
    }
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    asked = None
    if request.headers.get("if-range", etag) == etag:
        asked = _range(request.headers.get("range"), download.bytes)
    if asked is None:
        headers["content-length"] = str(download.bytes)
        chunks = storage.open(download.key, sha256=download.sha256)
        return StreamingResponse(chunks, media_type=download.media_type, headers=headers)
    first, last = asked
    headers["content-length"] = str(last - first + 1)
    headers["content-range"] = f"bytes {first}-{last}/{download.bytes}"
    chunks = storage.open(download.key, first, last - first + 1)
    return StreamingResponse(chunks, status_code=206, media_type=download.media_type, headers=headers)


def asks_base64(request: Request) -> bool:
    """Whether `Accept` names a media type with RFC 2397's mark, as in `text/csv;base64`."""
    accepted = request.headers.get("accept", "").lower()
    return any(kind.replace(" ", "").endswith(";base64") for kind in accepted.split(","))


def hand_out_base64(storage: Storage, download: Download) -> Response:
    """The whole object encoded, as OpenAI hands out result files; without ranges."""
    headers = {"cache-control": "private, no-cache", "vary": "accept"}
    chunks = _encoded(storage.open(download.key, sha256=download.sha256))
    return StreamingResponse(chunks, media_type="text/plain", headers=headers)


def _encoded(chunks: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        data = rest + chunk
        whole = len(data) - len(data) % 3  # three bytes are four characters, without padding in between
        rest = data[whole:]
        yield b64encode(data[:whole])
    yield b64encode(rest)


def _range(header: str | None, size: int) -> tuple[int, int] | None:
    """(first, last) byte of a single range; None: send it whole, which RFC 9110 allows for what is not understood."""
    match = _RANGE.fullmatch(header.replace(" ", "")) if header else None
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        first, last = max(0, size - int(match[2])), size - 1
    else:
        first, last = int(match[1]), min(int(match[2] or size), size - 1)
        if match[2] and int(match[2]) < first:
            return None
    if first >= size:
        raise AttuneError(
            f"The range starts at byte {first}, but there are {size} bytes.", code="range_not_satisfiable", status=416
        )
    return first, last
