"""Rows of uploaded files. A file's object is written before its row and deleted after it."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import ColumnElement, or_, select, tuple_
from sqlalchemy.orm import Session

from core.access import projects, quotas
from core.batches.models import ENDED, Batch
from core.data.examples import Summary
from core.db import db_now
from core.errors import AttuneError, NotFound
from core.jobs import jobs
from core.models import File
from core.spec import Method
from core.store.objects import Stored

FINE_TUNE = "fine-tune"
FINE_TUNE_RESULTS = "fine-tune-results"
BATCH = "batch"
BATCH_OUTPUT = "batch_output"
UPLOAD_PURPOSES = (FINE_TUNE, "user_data", BATCH, "evals", "assistants", "vision")
MAX_NAME_BYTES = 255


@dataclass(frozen=True)
class Received:
    """What a client has sent, stored but not yet a row. `summary`: of a fine-tune file."""

    id: str
    filename: str
    purpose: str
    storage_key: str
    stored: Stored
    summary: Summary | None
    lifetime_s: int | None = None


def storage_key(project_id: str, file_id: str) -> str:
    """No part of a user's file name is ever a part of a key."""
    return f"projects/{project_id}/files/{file_id}"


def clean_name(name: str) -> str:
    """A label to show: no folders, no control or direction characters, at most 255 bytes."""
    last = unicodedata.normalize("NFC", name).replace("\\", "/").rsplit("/", 1)[-1]
    shown = "".join(c for c in last if not unicodedata.category(c).startswith("C")).strip()
    return shown.encode()[:MAX_NAME_BYTES].decode(errors="ignore") or "upload"


def create(session: Session, project_id: str, upload: Received) -> File:
    """The row of a stored upload: `processed`, or `error` with its findings. Raises QuotaReached."""
    project = projects.lock(session, project_id)  # erased while the bytes came in: refuse, and the caller removes them
    quotas.check_bytes(session, project, upload.stored.bytes)
    summary = upload.summary
    faulty = summary is not None and summary.error_count > 0
    row = File(
        id=upload.id,
        project_id=project_id,
        filename=upload.filename,
        purpose=upload.purpose,
        bytes=upload.stored.bytes,
        sha256=upload.stored.sha256,
        storage_key=upload.storage_key,
        status="error" if faulty else "processed",
        status_details=_details(summary) if faulty and summary else None,
        examples=summary.examples if summary else None,
        kind=summary.kind if summary else None,
        findings=[finding.as_dict() for finding in summary.findings] if summary else None,
        expires_at=None if upload.lifetime_s is None else db_now() + upload.lifetime_s,
    )
    session.add(row)
    session.flush()
    session.refresh(row)
    return row


def _details(summary: Summary) -> str:
    first = next(finding for finding in summary.findings if finding.severity == "error")
    where = f"line {first.line}" + (f", {first.field}" if first.field else "")
    more = f" ({summary.error_count - 1} more in attune.findings)" if summary.error_count > 1 else ""
    return f"{where}: {first.message}{more}"


STILL_THERE = (File.deleted_at.is_(None), or_(File.expires_at.is_(None), File.expires_at > db_now()))


def _visible(project_id: str) -> list[ColumnElement[bool]]:
    return [File.project_id == project_id, *STILL_THERE]


def get(session: Session, project_id: str, file_id: str, *, param: str = "id", lock: bool = False) -> File:
    """The project's file. Raises NotFound in OpenAI's words. `lock`: nobody deletes it in this transaction."""
    query = select(File).where(File.id == file_id, *_visible(project_id))
    row = session.scalar(query.with_for_update(read=True) if lock else query)
    if row is None:
        raise NotFound(f"No such File object: {file_id}", code="file_not_found", param=param)
    return row


def for_job(session: Session, project_id: str, file_id: str, param: str, method: Method) -> File:
    """A file that a job may train on. Raises the 400 or 404 that says why not, in the name of `param`."""
    row = get(session, project_id, file_id, param=param, lock=True)
    must_train(row, param, method)
    return row


def must_train(row: File, param: str, method: Method) -> None:
    """Raises the 400 that says why a job cannot train on the file, in the name of `param`."""
    if row.purpose != FINE_TUNE:
        raise AttuneError(
            f"File {row.id} has the purpose '{row.purpose}'; a job takes files of the purpose '{FINE_TUNE}'.",
            code="invalid_file_purpose",
            param=param,
        )
    if row.status != "processed":
        raise AttuneError(
            f"File {row.id} has errors ({row.status_details}). Correct them, and upload the file again.",
            code="invalid_file",
            param=param,
        )
    _must_suit(row, method, param)


def _must_suit(row: File, method: Method, param: str) -> None:
    if row.kind is None or (row.kind == "preference") == (method is Method.DPO):
        return
    if method is Method.DPO:
        wrong = (
            "has examples that are no preference pairs, and the method 'dpo' trains on pairs. Give every line "
            '"input", "preferred_output" and "non_preferred_output", or use the method \'supervised\'.'
        )
    else:
        wrong = "holds preference pairs. Use the method 'dpo', or upload conversations."
    raise AttuneError(f"File {row.id} {wrong}", code="wrong_method", param=param)


def page(
    session: Session,
    project_id: str,
    *,
    purpose: str | None,
    after: str | None,
    limit: int,
    order: Literal["asc", "desc"],
) -> tuple[Sequence[File], bool]:
    """(up to `limit` files after the file `after`; whether there are more)."""
    query = select(File).where(*_visible(project_id))
    if purpose is not None:
        query = query.where(File.purpose == purpose)
    place = tuple_(File.created_at, File.id)
    if after is not None:
        cursor = session.scalar(select(File).where(File.id == after, File.project_id == project_id))
        if cursor is None:
            raise AttuneError(f"No such File object with id: {after}", code="invalid_cursor", param="after")
        here = tuple_(cursor.created_at, cursor.id)
        query = query.where(place > here if order == "asc" else place < here)
    turned = (File.created_at, File.id) if order == "asc" else (File.created_at.desc(), File.id.desc())
    rows = session.scalars(query.order_by(*turned).limit(limit + 1)).all()
    return rows[:limit], len(rows) > limit


def delete(session: Session, project_id: str, file_id: str) -> File:
    """Take the file out of sight; the caller deletes its object after the commit.

    Raises AttuneError while an unfinished job needs it.
    """
    query = select(File).where(File.id == file_id, *_visible(project_id)).with_for_update()
    row = session.scalar(query)
    if row is None:
        raise NotFound(f"No such File object: {file_id}", code="file_not_found")
    job_id, batch_id = jobs.using_file(session, project_id, file_id), _batch_using(session, project_id, file_id)
    if job_id is not None or batch_id is not None:
        user = f"the job {job_id}" if job_id is not None else f"the batch {batch_id}"
        raise AttuneError(
            f"File {file_id} is in use by {user}. Cancel that, or wait for its end.", code="file_in_use", param="id"
        )
    row.deleted_at = session.scalar(select(db_now()))
    return row


def _batch_using(session: Session, project_id: str, file_id: str) -> str | None:
    """The id of an unfinished batch that reads this file, if there is one."""
    reading = (Batch.project_id == project_id, Batch.input_file_id == file_id, Batch.status.not_in(ENDED))
    return session.scalar(select(Batch.id).where(*reading).limit(1))
