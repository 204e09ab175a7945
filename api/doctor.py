"""/v1/attune, the dataset doctor: conversions, reports, repairs and splits, which take time, and what answers at once.

The work runs beside the requests (core.doctor_work), and what answers at once in a short-lived process of its own.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import msgspec
from fastapi import APIRouter, Query
from pydantic import Field, StringConstraints

from api.parts import Caller, Parts, Within
from api.wire import Ours, Shown
from core import catalog, doctor_tasks, doctor_work, files
from core.doctor.child import Child
from core.doctor.orders import Base, Format, Preview, Reading, RepairName, Shape, Show
from core.doctor.window import window
from core.doctor_models import DoctorTask, TaskKind
from core.errors import AttuneError, NotFound, Unavailable
from core.files import FINE_TUNE
from core.models import File
from core.spec import MAX_SEED
from core.storable import ModelId, Name, Text
from core.storage import StorageMissing

router = APIRouter(prefix="/v1/attune", tags=["doctor"])
AT_ONCE_S = 20.0  # that a preview or a rendering may take
HEAD_BYTES = 4 * 1024**2  # of a text format, for its preview
WAIT_S = 5.0
SOURCES = (FINE_TUNE, "user_data")
_WHOLE_FORMATS = (b"PAR1", b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # a part of such a file says nothing
_places = threading.BoundedSemaphore(2)  # processes at once, of this web process

FileId = Annotated[Text, StringConstraints(min_length=1, max_length=128)]
MaxTokens = Annotated[int, Field(ge=1, le=10_000_000)]
FileName = Annotated[Text, StringConstraints(min_length=1, max_length=255)]


class MappingForm(Ours):
    shape: Shape
    columns: dict[Annotated[Text, Field(max_length=64)], Annotated[Text, Field(max_length=256)]]
    system_text: Annotated[Text, Field(max_length=100_000)] | None = None


class ReadingForm(Ours):
    file_id: FileId
    format: Format | None = None
    encoding: Annotated[Text, StringConstraints(min_length=1, max_length=40)] | None = None
    delimiter: Literal[",", ";", "\t", "|", ":"] | None = None
    sheet: Name | None = None
    mapping: MappingForm | None = None

    def reading(self) -> Reading:
        fields = ("format", "encoding", "delimiter", "sheet", "mapping")
        return msgspec.convert(self.model_dump(include=set(fields)), Reading)


class ConversionCreate(ReadingForm):
    filename: FileName | None = None
    limit: Annotated[int, Field(ge=1, le=50)] = 10  # of the preview; a conversion takes all


class ReportCreate(Ours):
    file_id: FileId
    validation_file_id: FileId | None = None
    model: ModelId | None = None
    method: Literal["supervised", "dpo"] = "supervised"
    max_tokens: MaxTokens | None = None


class RepairCreate(Ours):
    file_id: FileId
    repairs: Annotated[list[RepairName], Field(min_length=1, max_length=14)]
    dry_run: bool = True
    model: ModelId | None = None
    max_tokens: MaxTokens | None = None
    validation_file_id: FileId | None = None
    filename: FileName | None = None


class SplitCreate(Ours):
    file_id: FileId
    validation_share: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 42


class TaskProgress(Shown):
    stage: str
    share: float


class TaskError(Shown):
    code: str
    message: str
    param: str | None


class Task(Shown):
    id: str
    object: Literal["attune.conversion", "attune.report", "attune.repair", "attune.split"]
    created_at: int
    started_at: int | None
    finished_at: int | None
    status: Literal["queued", "running", "succeeded", "failed"]
    progress: TaskProgress
    file_id: str
    request: dict[str, Any]
    result: dict[str, Any] | None
    error: TaskError | None


class TaskList(Shown):
    object: Literal["list"] = "list"
    data: list[Task]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DoctorFinding(Shown):
    code: str
    message: str
    line: int | None
    field: str | None
    severity: Literal["error", "warning", "hint"]
    repairs: list[str]


class PreviewColumn(Shown):
    name: str
    samples: list[str]


class PreviewRow(Shown):
    row: int
    cells: dict[str, str]
    example: dict[str, Any] | None
    findings: list[DoctorFinding]


class ConversionPreview(Shown):
    object: Literal["attune.conversion.preview"] = "attune.conversion.preview"
    file_id: str
    format: str
    encoding: str | None
    delimiter: str | None
    sheets: list[str] | None
    sheet: str | None
    columns: list[PreviewColumn]
    mapping: dict[str, Any] | None
    recognised: bool
    rows: list[PreviewRow]
    findings: list[DoctorFinding]


class Token(Shown):
    id: int
    text: str
    supervised: bool


class Piece(Shown):
    text: str
    supervised: bool
    tokens: int


class SequenceShown(Shown):
    label: Literal["preferred", "non_preferred"] | None
    text: str
    token_count: int
    supervised_count: int
    tokens: list[Token]
    pieces: list[Piece]


class ExampleShown(Shown):
    object: Literal["attune.example"] = "attune.example"
    line: int
    kind: str | None
    example: dict[str, Any] | None
    findings: list[DoctorFinding]
    sequences: list[SequenceShown] | None


class ExampleList(Shown):
    object: Literal["list"] = "list"
    file_id: str
    model: str | None
    data: list[ExampleShown]
    has_more: bool


def _show(row: DoctorTask) -> Task:
    return Task(
        id=row.id,
        object=cast(Any, f"attune.{row.kind}"),
        created_at=int(row.created_at),
        started_at=None if row.started_at is None else int(row.started_at),
        finished_at=None if row.finished_at is None else int(row.finished_at),
        status=cast(Any, row.status),
        progress=TaskProgress(stage=row.stage, share=row.share),
        file_id=row.file_id,
        request=row.request,
        result=row.result,
        error=None if row.error is None else TaskError(**row.error),
    )


def _create(parts: Parts, project_id: str, kind: TaskKind, request: dict[str, Any]) -> Task:
    named = {"file_id": request["file_id"], "validation_file_id": request.get("validation_file_id")}
    with parts.database.begin() as session:
        for param, file_id in named.items():
            if file_id is not None:
                _check_purpose(files.get(session, project_id, file_id, param=param), param)
        if request.get("model") is not None:
            doctor_work.base_of(session, project_id, request["model"])
        row = doctor_tasks.create(session, project_id, kind, request["file_id"], request)
    parts.poke()
    return _show(row)


def _check_purpose(row: File, param: str) -> None:
    if row.purpose not in SOURCES:
        raise AttuneError(
            f"File {row.id} has the purpose '{row.purpose}'; give one of the purpose {' or '.join(SOURCES)}.",
            code="invalid_file_purpose",
            param=param,
        )


def _list(
    parts: Parts, project_id: str, kind: TaskKind, file_id: str | None, after: str | None, limit: int
) -> TaskList:
    with parts.database.read() as session:
        rows, has_more = doctor_tasks.page(session, project_id, kind, file_id=file_id, after=after, limit=limit)
    data = [_show(row) for row in rows]
    ends = (data[0].id, data[-1].id) if data else (None, None)
    return TaskList(data=data, first_id=ends[0], last_id=ends[1], has_more=has_more)


def _retrieve(parts: Parts, project_id: str, kind: TaskKind, task_id: str) -> Task:
    with parts.database.read() as session:
        return _show(doctor_tasks.get(session, project_id, kind, task_id))


After = Annotated[str | None, Query(max_length=128)]
Limit = Annotated[int, Query(ge=1, le=100)]
OfFile = Annotated[str | None, Query(max_length=128)]


@router.post("/conversions")
def create_conversion(body: ConversionCreate, caller: Caller, parts: Within) -> Task:
    request = body.model_dump(exclude={"limit"})
    request["reading"] = msgspec.to_builtins(body.reading())
    return _create(parts, caller.project_id, TaskKind.CONVERSION, request)


@router.get("/conversions")
def list_conversions(
    caller: Caller, parts: Within, file_id: OfFile = None, after: After = None, limit: Limit = 20
) -> TaskList:
    return _list(parts, caller.project_id, TaskKind.CONVERSION, file_id, after, limit)


@router.get("/conversions/{conversion_id}")
def retrieve_conversion(conversion_id: str, caller: Caller, parts: Within) -> Task:
    return _retrieve(parts, caller.project_id, TaskKind.CONVERSION, conversion_id)


@router.post("/reports")
def create_report(body: ReportCreate, caller: Caller, parts: Within) -> Task:
    return _create(parts, caller.project_id, TaskKind.REPORT, body.model_dump())


@router.get("/reports")
def list_reports(
    caller: Caller, parts: Within, file_id: OfFile = None, after: After = None, limit: Limit = 20
) -> TaskList:
    return _list(parts, caller.project_id, TaskKind.REPORT, file_id, after, limit)


@router.get("/reports/{report_id}")
def retrieve_report(report_id: str, caller: Caller, parts: Within) -> Task:
    return _retrieve(parts, caller.project_id, TaskKind.REPORT, report_id)


@router.post("/repairs")
def create_repair(body: RepairCreate, caller: Caller, parts: Within) -> Task:
    if "drop_too_long" in body.repairs and body.model is None:
        message = "What is too long depends on the model: name it, or leave drop_too_long out."
        raise AttuneError(message, code="model_needed", param="model")
    if "drop_validation_overlap" in body.repairs and body.validation_file_id is None:
        raise AttuneError(
            "Missing required parameter: 'validation_file_id'.",
            code="missing_required_parameter",
            param="validation_file_id",
        )
    return _create(parts, caller.project_id, TaskKind.REPAIR, body.model_dump())


@router.get("/repairs")
def list_repairs(
    caller: Caller, parts: Within, file_id: OfFile = None, after: After = None, limit: Limit = 20
) -> TaskList:
    return _list(parts, caller.project_id, TaskKind.REPAIR, file_id, after, limit)


@router.get("/repairs/{repair_id}")
def retrieve_repair(repair_id: str, caller: Caller, parts: Within) -> Task:
    return _retrieve(parts, caller.project_id, TaskKind.REPAIR, repair_id)


@router.post("/splits")
def create_split(body: SplitCreate, caller: Caller, parts: Within) -> Task:
    return _create(parts, caller.project_id, TaskKind.SPLIT, body.model_dump())


@router.get("/splits")
def list_splits(
    caller: Caller, parts: Within, file_id: OfFile = None, after: After = None, limit: Limit = 20
) -> TaskList:
    return _list(parts, caller.project_id, TaskKind.SPLIT, file_id, after, limit)


@router.get("/splits/{split_id}")
def retrieve_split(split_id: str, caller: Caller, parts: Within) -> Task:
    return _retrieve(parts, caller.project_id, TaskKind.SPLIT, split_id)


# What answers at once


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
    _check_purpose(row, "file_id")
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
