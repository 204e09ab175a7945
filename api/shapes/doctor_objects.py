"""What the dataset doctor answers with: tasks of four kinds, the preview of a conversion, examples as rendered."""

from __future__ import annotations

from typing import Any, Literal, cast

from api.shapes.wire import Shown
from core.doctor.models import DoctorTask


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


def show_task(row: DoctorTask) -> Task:
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
