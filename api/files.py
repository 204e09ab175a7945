"""/v1/files: upload, list, look, download, delete."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import structlog
from anyio import to_thread
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from api.download import Download, asks_base64, hand_out, hand_out_base64
from api.form import Limits
from api.job_object import seconds
from api.openapi import DOWNLOAD
from api.parts import Caller, Parts, Within
from api.receive import receive_upload
from api.wire import Deleted, Shown
from core import files, projects, quotas
from core.errors import AttuneError, NotFound, Unavailable
from core.files import FINE_TUNE_RESULTS, Received
from core.models import File

log = structlog.get_logger()
router = APIRouter(prefix="/v1/files", tags=["files"])
FORM_SLACK_BYTES = 2048  # the form around a file is not stored; the exact check follows when the file is there
_FORM_SCHEMA: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "purpose": {"type": "string", "enum": list(files.UPLOAD_PURPOSES)},
                        "file": {"type": "string", "format": "binary"},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2592000},
                    },
                }
            }
        },
    }
}


class FileAttune(Shown):
    sha256: str
    examples: int | None  # of a fine-tune file: the lines that can be trained on
    kind: str | None  # of the examples: chat, completion, text, preference, or mixed
    findings: list[dict[str, Any]] | None  # what is wrong with the others, and warnings


class FileObject(Shown):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: str
    status_details: str | None
    attune: FileAttune


class FileList(Shown):
    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


def show_file(row: File) -> FileObject:
    return FileObject(
        id=row.id,
        bytes=row.bytes,
        created_at=int(row.created_at),
        expires_at=seconds(row.expires_at),
        filename=row.filename,
        purpose=row.purpose,
        status=row.status,
        status_details=row.status_details,
        attune=FileAttune(sha256=row.sha256, examples=row.examples, kind=row.kind, findings=row.findings),
    )


@router.post("", openapi_extra=_FORM_SCHEMA)
async def create_file(request: Request, caller: Caller, parts: Within) -> FileObject:
    settings = parts.settings
    announced = request.headers.get("content-length", "")
    await to_thread.run_sync(_check_quota, parts, caller.project_id, int(announced) if announced.isdecimal() else 0)
    upload = await receive_upload(
        request.stream(),
        request.headers.get("content-type"),
        parts.storage,
        caller.project_id,
        Limits(settings.max_file_bytes, settings.max_line_bytes),
    )
    return await to_thread.run_sync(_write_row, parts, caller.project_id, upload)


def _check_quota(parts: Parts, project_id: str, announced_bytes: int) -> None:
    with parts.database.read() as session:
        project = projects.get(session, project_id)
        quotas.check_bytes(session, project, max(0, announced_bytes - FORM_SLACK_BYTES))


def _write_row(parts: Parts, project_id: str, upload: Received) -> FileObject:
    try:
        with parts.database.begin() as session:
            row = files.create(session, project_id, upload)
    except BaseException as error:
        if not isinstance(error, Unavailable) or not was_written(parts, project_id, upload.id):
            parts.storage.delete(upload.storage_key)
        raise
    return show_file(row)


def was_written(parts: Parts, project_id: str, file_id: str) -> bool:
    """A commit whose answer was lost may have happened: an object too many is better than a row without one."""
    try:
        with parts.database.read() as session:
            files.get(session, project_id, file_id)
    except NotFound:
        return False
    except AttuneError:
        log.warning("upload_in_doubt", file=file_id)
    return True


@router.get("")
def list_files(
    caller: Caller,
    parts: Within,
    purpose: Annotated[str | None, Query(max_length=64)] = None,
    after: Annotated[str | None, Query(max_length=128)] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
) -> FileList:
    with parts.database.read() as session:
        rows, has_more = files.page(session, caller.project_id, purpose=purpose, after=after, limit=limit, order=order)
    data = [show_file(row) for row in rows]
    return FileList(
        data=data,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
        has_more=has_more,
    )


@router.get("/{file_id}")
def retrieve_file(file_id: str, caller: Caller, parts: Within) -> FileObject:
    with parts.database.read() as session:
        return show_file(files.get(session, caller.project_id, file_id))


@router.get("/{file_id}/content", response_class=Response, responses=DOWNLOAD)
def file_content(file_id: str, request: Request, caller: Caller, parts: Within) -> Response:
    with parts.database.read() as session:
        row = files.get(session, caller.project_id, file_id)
    download = Download(row.storage_key, row.bytes, row.sha256, row.filename)
    if row.purpose == FINE_TUNE_RESULTS and (parts.settings.result_files_base64 or asks_base64(request)):
        return hand_out_base64(parts.storage, download)
    return hand_out(request, parts.storage, download, may_redirect=False)


@router.delete("/{file_id}")
def delete_file(file_id: str, caller: Caller, parts: Within) -> Deleted:
    with parts.database.begin() as session:
        files.delete(session, caller.project_id, file_id)
    return Deleted(id=file_id, object="file")  # the janitor removes the object
