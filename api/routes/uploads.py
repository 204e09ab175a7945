"""/v1/uploads: a file in parts of up to 64 MB, completed to a File. Parts stream into storage as they come."""

from __future__ import annotations

from typing import Annotated, Literal

from anyio import to_thread
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field, StringConstraints

from api.bodies.form import Lifetime, check_name, check_purpose, described
from api.bodies.receive import receive_part
from api.gate.replay import once
from api.parts import Caller, Parts, Within
from api.routes.files import FileObject, show_file, was_written
from api.shapes.wire import Ours, Shown
from core import ids
from core.errors import AttuneError, Unavailable
from core.files import uploads
from core.files.compose import compose
from core.files.files import Received
from core.files.models import Upload, UploadStatus
from core.files.uploads import MAX_PART_BYTES, Declared
from core.models import File
from core.storable import Name, Text
from core.store.objects import Stored
from core.store.storage import StorageMissing

router = APIRouter(prefix="/v1/uploads", tags=["uploads"])


class UploadCreate(Ours):
    filename: Annotated[Text, Field(min_length=1, max_length=1024)]
    purpose: Text
    bytes: int = Field(ge=1)
    mime_type: Annotated[Text, Field(max_length=256)]
    expires_after: Lifetime | None = None


class UploadComplete(Ours):
    part_ids: list[Name] = Field(min_length=1, max_length=10_000)
    md5: Annotated[str, StringConstraints(pattern="^[0-9a-fA-F]{32}$")] | None = None


class UploadObject(Shown):
    id: str
    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: UploadStatus
    file: FileObject | None


class PartObject(Shown):
    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str


def show_upload(row: Upload, file: File | None = None) -> UploadObject:
    return UploadObject(
        id=row.id,
        bytes=row.bytes,
        created_at=int(row.created_at),
        expires_at=int(row.expires_at),
        filename=row.filename,
        purpose=row.purpose,
        status=UploadStatus(row.status),
        file=show_file(file) if file is not None else None,
    )


@router.post("")
def create_upload(body: UploadCreate, caller: Caller, parts: Within) -> UploadObject:
    check_purpose(body.purpose)
    check_name(body.filename, body.purpose, "filename")
    most = parts.settings.max_upload_bytes
    if body.bytes > most:
        raise AttuneError(
            f"'bytes' is {body.bytes}; an upload has at most {most} ({most / 1024**3:g} GiB). Split the file.",
            code="file_too_large",
            param="bytes",
        )
    lifetime_s = body.expires_after.seconds if body.expires_after else None
    declared = Declared(body.filename, body.purpose, body.mime_type, body.bytes, lifetime_s)
    with parts.database.begin() as session:
        return show_upload(uploads.create(session, caller.project_id, declared))


@router.post("/{upload_id}/parts", openapi_extra=described("data"), response_model=PartObject)
async def add_part(upload_id: str, request: Request, caller: Caller, parts: Within) -> Response:
    upload = await to_thread.run_sync(_pending, parts, caller.project_id, upload_id)
    part_id = ids.part_id()
    key = uploads.part_key(upload, part_id)
    form = request.headers.get("content-type")
    stored = await receive_part(request.stream(), form, parts.storage, key, MAX_PART_BYTES)

    def write() -> Response:
        return JSONResponse(_write_part(parts, upload, part_id, stored).model_dump(mode="json"))

    return await once(request, parts, stored.sha256, write, lambda: parts.storage.delete(key))


def _pending(parts: Parts, project_id: str, upload_id: str) -> Upload:
    with parts.database.read() as session:
        return uploads.pending(session, project_id, upload_id)


def _write_part(parts: Parts, upload: Upload, part_id: str, stored: Stored) -> PartObject:
    try:
        with parts.database.begin() as session:
            row = uploads.add_part(session, upload.project_id, upload.id, part_id, stored)
    except Unavailable:
        raise  # the row may be there; what is not needed goes with the upload
    except BaseException:
        parts.storage.delete(uploads.part_key(upload, part_id))
        raise
    return PartObject(id=row.id, created_at=int(row.created_at), upload_id=row.upload_id)


@router.post("/{upload_id}/complete")
def complete_upload(upload_id: str, body: UploadComplete, caller: Caller, parts: Within) -> UploadObject:
    """Completing again, as a client does that has lost the answer, gives the same file."""
    with parts.database.begin() as session:
        # under the same lock as the beginning, or another completion may end between the two
        if (done := uploads.completed(session, caller.project_id, upload_id, lock=True)) is not None:
            return show_upload(*done)
        upload, pieces = uploads.begin_completion(session, caller.project_id, upload_id, body.part_ids)
    try:
        received = compose(parts.storage, upload, pieces, md5=body.md5, max_line_bytes=parts.settings.max_line_bytes)
    except StorageMissing:  # ended meanwhile, and swept
        return _ended(parts, caller.project_id, upload_id)
    written = _write_file(parts, upload, received)
    return written or _ended(parts, caller.project_id, upload_id)


def _ended(parts: Parts, project_id: str, upload_id: str) -> UploadObject:
    """Another completion was first, or the 400 that names what else ended the upload."""
    with parts.database.read() as session:
        if (done := uploads.completed(session, project_id, upload_id)) is not None:
            return show_upload(*done)
    _pending(parts, project_id, upload_id)
    raise Unavailable("A part of the upload cannot be read.", code="storage_unavailable")


def _write_file(parts: Parts, upload: Upload, received: Received) -> UploadObject | None:
    shown: UploadObject | None = None
    try:
        with parts.database.begin() as session:
            done = uploads.complete(session, upload, received)
            shown = show_upload(*done) if done is not None else None
    except BaseException as error:
        if not isinstance(error, Unavailable) or not was_written(parts, upload.project_id, received.id):
            parts.storage.delete(received.storage_key)
        raise
    if shown is None:
        parts.storage.delete(received.storage_key)
    return shown


@router.post("/{upload_id}/cancel")
def cancel_upload(upload_id: str, caller: Caller, parts: Within) -> UploadObject:
    with parts.database.begin() as session:
        return show_upload(uploads.cancel(session, caller.project_id, upload_id))
