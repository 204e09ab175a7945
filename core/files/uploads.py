"""Files that come in parts: an upload declares its bytes, takes parts in any order, and is completed to a File.

`pending` is left once, by compare-and-set; what was stored for an upload goes with the janitor's next round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, or_, select, update
from sqlalchemy.orm import Session

from core import ids
from core.access import projects, quotas
from core.db import db_now
from core.errors import AttuneError, NotFound
from core.files import files
from core.files.files import Received
from core.files.models import Upload, UploadPart, UploadStatus
from core.models import File
from core.store.objects import Stored

LIFE_S = 3600.0
COMPOSING_S = 3600.0  # a completion that began in time may take as long
MAX_PART_BYTES = 64 * 1024 * 1024
_SPARE = 2  # parts may be sent again: so many times the declared bytes are kept


@dataclass(frozen=True)
class Declared:
    """What a client says that it will send."""

    filename: str
    purpose: str
    mime_type: str
    bytes: int
    file_lifetime_s: int | None


def parts_prefix(project_id: str, upload_id: str) -> str:
    return f"projects/{project_id}/uploads/{upload_id}"


def part_key(upload: Upload, part_id: str) -> str:
    return f"{parts_prefix(upload.project_id, upload.id)}/{part_id}"


def is_over() -> ColumnElement[bool]:
    """Whether a pending upload's time has passed, and no completion that began before is still at work."""
    return (Upload.expires_at <= db_now()) & or_(Upload.composing_until.is_(None), Upload.composing_until <= db_now())


def create(session: Session, project_id: str, declared: Declared) -> Upload:
    quotas.check_bytes(session, projects.lock(session, project_id), declared.bytes)
    upload = Upload(
        id=ids.upload_id(),
        project_id=project_id,
        status=UploadStatus.PENDING,
        filename=files.clean_name(declared.filename),
        purpose=declared.purpose,
        mime_type=declared.mime_type,
        bytes=declared.bytes,
        file_lifetime_s=declared.file_lifetime_s,
        expires_at=db_now() + LIFE_S,
    )
    session.add(upload)
    session.flush()
    session.refresh(upload)
    return upload


def get(session: Session, project_id: str, upload_id: str, *, lock: bool = False) -> Upload:
    """The project's upload. `lock`: nobody moves it in this transaction. Raises NotFound."""
    query = select(Upload).where(Upload.id == upload_id, Upload.project_id == project_id)
    upload = session.scalar(query.with_for_update() if lock else query)
    if upload is None:
        raise NotFound(f"No such Upload object: {upload_id}", code="upload_not_found", param="upload_id")
    return upload


def pending(session: Session, project_id: str, upload_id: str, *, lock: bool = False) -> Upload:
    """The upload, if it still takes parts. Raises the 400 that says why not."""
    upload = get(session, project_id, upload_id, lock=lock)
    state = upload.status
    if state == UploadStatus.PENDING and session.scalar(select(is_over()).where(Upload.id == upload_id)):
        state = UploadStatus.EXPIRED  # the janitor will say so, too
    if state != UploadStatus.PENDING:
        raise AttuneError(
            f"Upload {upload_id} is {state}; only a pending upload can be added to, completed or cancelled.",
            code=f"upload_{state}",
            param="upload_id",
        )
    return upload


def add_part(session: Session, project_id: str, upload_id: str, part_id: str, stored: Stored) -> UploadPart:
    """The row of a part that is stored already. Raises QuotaReached when the project stores too much with it."""
    upload = pending(session, project_id, upload_id, lock=True)
    # the upload's row first, as a completion locks them
    quotas.check_bytes(session, projects.lock(session, project_id), stored.bytes)
    held = session.scalar(select(func.sum(UploadPart.bytes)).where(UploadPart.upload_id == upload_id)) or 0
    if held + stored.bytes > _SPARE * upload.bytes + MAX_PART_BYTES:
        raise AttuneError(
            f"Upload {upload_id} holds {held} bytes of parts already and declares {upload.bytes}. Complete it, or "
            "cancel it and begin again.",
            code="too_many_parts",
            param="data",
        )
    part = UploadPart(id=part_id, upload_id=upload_id, bytes=stored.bytes, sha256=stored.sha256)
    session.add(part)
    session.flush()
    session.refresh(part)
    return part


def begin_completion(
    session: Session, project_id: str, upload_id: str, part_ids: Sequence[str]
) -> tuple[Upload, list[UploadPart]]:
    """(the upload, its parts in the order of `part_ids`). From here on it does not expire for a while."""
    upload = pending(session, project_id, upload_id, lock=True)
    known = {part.id: part for part in session.scalars(select(UploadPart).where(UploadPart.upload_id == upload_id))}
    for index, part_id in enumerate(part_ids):
        if part_id not in known:
            raise AttuneError(
                f"No such part of upload {upload_id}: {part_id}", code="part_not_found", param=f"part_ids[{index}]"
            )
    if len(set(part_ids)) != len(part_ids):
        raise AttuneError("A part stands twice in part_ids; name each once.", code="part_repeated", param="part_ids")
    parts = [known[part_id] for part_id in part_ids]
    found = sum(part.bytes for part in parts)
    if found != upload.bytes:
        raise AttuneError(
            f"The parts have {found} bytes together, and the upload declares {upload.bytes}.",
            code="upload_bytes_mismatch",
            param="part_ids",
        )
    session.execute(update(Upload).where(Upload.id == upload_id).values(composing_until=db_now() + COMPOSING_S))
    return upload, parts


def complete(session: Session, upload: Upload, received: Received) -> tuple[Upload, File] | None:
    """(the completed upload, its file); None when something else ended it meanwhile."""
    done = session.scalars(
        update(Upload)
        .where(Upload.id == upload.id, Upload.status == UploadStatus.PENDING)
        .values(status=UploadStatus.COMPLETED, file_id=received.id)
        .returning(Upload)
        .execution_options(synchronize_session=False, populate_existing=True)
    ).one_or_none()
    return None if done is None else (done, files.create(session, upload.project_id, received))


def completed(
    session: Session, project_id: str, upload_id: str, *, lock: bool = False
) -> tuple[Upload, File | None] | None:
    """(the upload, its file unless that was deleted since); None of one that is not completed. Raises NotFound."""
    upload = get(session, project_id, upload_id, lock=lock)
    if upload.status != UploadStatus.COMPLETED:
        return None
    row = session.get(File, upload.file_id) if upload.file_id is not None else None
    return upload, row if row is not None and row.deleted_at is None else None


def cancel(session: Session, project_id: str, upload_id: str) -> Upload:
    """Cancelling twice is no error."""
    upload = get(session, project_id, upload_id, lock=True)
    if upload.status != UploadStatus.CANCELLED:
        upload = pending(session, project_id, upload_id)
        upload.status = UploadStatus.CANCELLED
        session.flush()
    return upload
