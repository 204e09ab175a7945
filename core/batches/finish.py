"""What a batch leaves: a line for every request, in the output file or in the error file, each request once.

Parts are put together in the order of their lines; requests that nobody executed follow in the error file. Done
under a claim, by a worker or by the preparation child, in constant memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import structlog

from core import ids
from core.batches import claims as batch_claims
from core.batches.claims import BatchClaim
from core.batches.input import requests
from core.batches.models import Batch, BatchStatus
from core.db import Database, db_now
from core.files.files import BATCH_OUTPUT
from core.jobs.holding import Holding
from core.models import File
from core.store.storage import Storage, StorageCorrupt, StorageMissing

log = structlog.get_logger()
_NOT_EXECUTED = {
    BatchStatus.CANCELLED: ("batch_cancelled", "This request was not executed: the batch was cancelled."),
    BatchStatus.EXPIRED: (
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    ),
}


def output_line(batch: Batch, line: int, custom_id: str, response: object, error: object = None) -> bytes:
    """OpenAI's line of an output or error file. `response`: {status_code, request_id, body}, or None."""
    shown = {
        "id": ids.batch_request_id(batch.id, line),
        "custom_id": custom_id,
        "response": response,
        "error": error,
    }
    return json.dumps(shown, ensure_ascii=False).encode() + b"\n"


def fetch_input(database: Database, storage: Storage, batch: Batch, path: Path) -> None:
    """Bring the input file to `path`. Raises StorageMissing, StorageCorrupt."""
    with database.read() as session:
        file = session.get(File, batch.input_file_id)
    if file is None or not file.storage_key:
        raise StorageMissing(batch.input_file_id)
    storage.fetch(file.storage_key, path, file.sha256)


def finish(
    database: Database, storage: Storage, claim: BatchClaim, holding: Holding, scratch: Path, max_line_bytes: int
) -> BatchStatus | None:
    """Write the files of a batch that is answered, cancelled or out of time, and end it. None: the lease is lost."""
    with database.begin() as session:
        status = batch_claims.finalize(session, claim)
    if status is None:
        return None
    outcome = {BatchStatus.FINALIZING: BatchStatus.COMPLETED, BatchStatus.CANCELLING: BatchStatus.CANCELLED}.get(
        status, BatchStatus.EXPIRED
    )
    with database.read() as session:
        batch, parts = batch_claims.current(session, claim)
    path = scratch / "input.jsonl"
    if batch.answered < batch.total and not path.exists():
        try:
            fetch_input(database, storage, batch, path)
        except (StorageMissing, StorageCorrupt) as error:
            log.warning("batch_input_lost", batch=batch.id, error=str(error))  # the answers are there all the same

    def rest() -> Iterator[bytes]:
        if batch.answered == batch.total or not path.exists():
            return
        code, message = _NOT_EXECUTED[outcome]
        for request in requests(path, batch.answered, max_line_bytes):
            error = {"code": code, "message": message}
            yield output_line(batch, request.line, request.custom_id, None, error)

    output = _file(storage, claim, "output", batch.completed, lambda: _joined(storage, [p.output_key for p in parts]))
    error_lines = batch.total - batch.completed

    def error_bytes() -> Iterator[bytes]:
        yield from _joined(storage, [part.error_key for part in parts])
        yield from rest()

    errors = _file(storage, claim, "errors", error_lines, error_bytes)
    holding.settle()
    with database.begin() as session:
        ended = batch_claims.end(session, claim, outcome, output, errors)
    return outcome if ended else None


def _joined(storage: Storage, keys: Sequence[str | None]) -> Iterator[bytes]:
    for key in keys:
        if key is not None:
            yield from storage.open(key)


def _file(
    storage: Storage, claim: BatchClaim, name: str, lines: int, content: Callable[[], Iterator[bytes]]
) -> File | None:
    """The row of a file of so many lines, whose bytes are stored; None where there are none."""
    if not lines:
        return None
    key = f"{claim.prefix}/{name}.jsonl"
    stored = storage.put_stream(key, content())
    batch = claim.batch
    return File(
        id=ids.file_id(),
        project_id=batch.project_id,
        filename=f"{batch.id}_{name}.jsonl",
        purpose=BATCH_OUTPUT,
        bytes=stored.bytes,
        sha256=stored.sha256,
        storage_key=key,
        status="processed",
        expires_at=None if batch.output_lifetime_s is None else db_now() + batch.output_lifetime_s,
    )
