"""What the dataset doctor answers at once, in a short-lived process of its own: how a file would be read, and examples
as they are trained.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, cast

from fastapi import APIRouter, Query

from api.parts import Caller, Parts, Within
from api.routes.doctor import check_purpose
from api.shapes.doctor_objects import ConversionPreview, ExampleList
from api.shapes.doctor_requests import ConversionCreate
from core.bases import catalog
from core.doctor import work as doctor_work
from core.doctor.child import Child
from core.doctor.orders import Base, Preview, Show
from core.doctor.window import window
from core.errors import AttuneError, NotFound, Unavailable
from core.files import files
from core.models import File
from core.store.storage import StorageMissing

router = APIRouter(prefix="/v1/attune", tags=["doctor"])
AT_ONCE_S = 20.0  # that a preview or a rendering may take
HEAD_BYTES = 4 * 1024**2  # of a text format, for its preview
WAIT_S = 5.0
_WHOLE_FORMATS = (b"PAR1", b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # a part of such a file says nothing
_places = threading.BoundedSemaphore(2)  # processes at once, of this web process


@router.post("/conversions/preview")
def preview_conversion(body: ConversionCreate, caller: Caller, parts: Within) -> ConversionPreview:
    row = _source(parts, caller.project_id, body.file_id)
    with _at_once() as scratch:
        path = scratch / "source"
        is_head = _fetch_head(parts, row, path)
        order = Preview(str(path), row.filename, body.reading(), body.limit, is_head)
        found = Child(order).run(time_limit_s=AT_ONCE_S)
    return ConversionPreview.model_validate({"file_id": row.id, **found})


@router.get("/files/{file_id}/examples")
def list_examples(
    file_id: str,
    caller: Caller,
    parts: Within,
    model: Annotated[str | None, Query(min_length=1, max_length=256)] = None,
    line: Annotated[int, Query(ge=1, le=1_000_000_000)] = 1,
    limit: Annotated[int, Query(ge=1, le=20)] = 5,
) -> ExampleList:
    row = _source(parts, caller.project_id, file_id)
    base = None if model is None else _base(parts, caller.project_id, model)
    with _at_once() as scratch:
        with _stored(row):
            lines, has_more = window(parts.storage.open(row.storage_key), line, limit)
        data: list[Any] = []
        if lines:
            path = scratch / "lines"
            path.write_bytes(b"\n".join(lines))
            shown = Child(Show(str(path), line, base)).run(time_limit_s=AT_ONCE_S)
            data = cast("list[Any]", shown["data"])
    return ExampleList.model_validate({"file_id": row.id, "model": model, "data": data, "has_more": has_more})


def _source(parts: Parts, project_id: str, file_id: str) -> File:
    with parts.database.read() as session:
        row = files.get(session, project_id, file_id, param="file_id")
    check_purpose(row, "file_id")
    return row


@contextmanager
def _at_once() -> Generator[Path]:
    """A scratch folder, when there is a place. Raises Unavailable (doctor_busy)."""
    if not _places.acquire(timeout=WAIT_S):
        raise Unavailable("Too many previews run at once; try again in a moment.", code="doctor_busy")
    try:
        with tempfile.TemporaryDirectory(prefix="doctor-") as scratch:
            yield Path(scratch)
    finally:
        _places.release()


@contextmanager
def _stored(row: File) -> Generator[None]:
    try:
        yield
    except StorageMissing as error:  # deleted at this moment
        raise NotFound(f"No such File object: {row.id}", code="file_not_found", param="file_id") from error


def _fetch_head(parts: Parts, row: File, path: Path) -> bool:
    """Leave the file at `path`, of a text format its first bytes alone; says whether that is not all."""
    with _stored(row), path.open("wb") as file:
        length = min(row.bytes, HEAD_BYTES)
        chunks = parts.storage.open(row.storage_key, 0, length)
        head = next(chunks, b"")
        file.write(head)
        for chunk in chunks:
            file.write(chunk)
        if length == row.bytes:
            return False
        if not head.startswith(_WHOLE_FORMATS):
            return True
        for chunk in parts.storage.open(row.storage_key, length, row.bytes - length):
            file.write(chunk)
    return False


def _base(parts: Parts, project_id: str, model: str) -> Base:
    with parts.database.read() as session:
        row, date = doctor_work.base_of(session, project_id, model)
    if row.status != "ready":
        raise AttuneError(
            f"The base model '{row.id}' is not prepared yet: ask for a report with it, or start a job, and try again.",
            code="base_model_unavailable",
            param="model",
        )
    folder = catalog.light_folder(parts.storage, row, parts.settings.work_dir / "tokenizers")
    return Base(model, str(folder), date)
