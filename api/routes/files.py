"""/v1/files: upload, list, look, download, delete."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

import structlog
from anyio import to_thread
from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response

from api.bodies.download import Download, asks_base64, hand_out, hand_out_base64
from api.bodies.form import LIFETIME_S, Limits, described
from api.bodies.receive import receive_upload
from api.gate.replay import asked, once
from api.openapi import DOWNLOAD
from api.parts import Caller, Parts, Within
from api.shapes.job_object import seconds
from api.shapes.wire import Deleted, Page, Shown, ends
from core import crash_points, replay
from core.access import projects, quotas
from core.db import Session
from core.errors import AttuneError, NotFound, Unavailable
from core.files import files
from core.files.files import FINE_TUNE_RESULTS, Received
from core.models import File
from core.replay import Asked

log = structlog.get_logger()
router = APIRouter(prefix="/v1/files", tags=["files"])
FORM_SLACK_BYTES = 2048  # the form around a file is not stored; the exact check follows when the file is there
_FORM = described(
    "file",
    ["purpose"],
    purpose={"type": "string", "enum": list(files.UPLOAD_PURPOSES)},
    **{
        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
        "expires_after[seconds]": {"type": "integer", "minimum": LIFETIME_S[0], "maximum": LIFETIME_S[1]},
    },
)


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


class FileList(Page[FileObject]):
    pass


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


@router.post("", openapi_extra=_FORM, response_model=FileObject)
async def create_file(request: Request, caller: Caller, parts: Within) -> Response:
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
    sha256 = _content_sha256(upload)
    again = asked(request, caller, sha256)

    def write() -> Response:
        return JSONResponse(_write_row(parts, caller.project_id, upload, again).model_dump(mode="json"))

    return await once(request, parts, sha256, write, lambda: parts.storage.delete(upload.storage_key))


def _content_sha256(upload: Received) -> str:
    """What the form says, not its bytes: a client that sends it again draws another boundary."""
    said = [upload.filename, upload.purpose, upload.lifetime_s, upload.stored.sha256]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def _check_quota(parts: Parts, project_id: str, announced_bytes: int) -> None:
    with parts.database.read() as session:
        project = projects.get(session, project_id)
        quotas.check_bytes(session, project, max(0, announced_bytes - FORM_SLACK_BYTES))


def _write_row(parts: Parts, project_id: str, upload: Received, again: Asked) -> FileObject:
    crash_points.here("upload.stored")
    try:
        with parts.database.begin(alone_at=(again.chain,)) as session:
            row = _made_before(session, project_id, again)
            if row is None:
                row = files.create(session, project_id, upload)
                replay.note(session, project_id, {row.id: again})
        crash_points.here("upload.named")
    except BaseException as error:
        if not isinstance(error, Unavailable) or not was_written(parts, project_id, upload.id):
            parts.storage.delete(upload.storage_key)
        raise
    if row.id != upload.id:
        parts.storage.delete(upload.storage_key)
    return show_file(row)


def _made_before(session: Session, project_id: str, again: Asked) -> File | None:
    """The file of an earlier arrival of this request, if it is still there."""
    file_id = replay.earlier(session, project_id, again)
    try:
        return None if file_id is None else files.get(session, project_id, file_id)
    except NotFound:
        return None


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
    return FileList(data=data, **ends(data), has_more=has_more)


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
