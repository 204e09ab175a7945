"""/v1/attune, for every project: what OpenAI's API has no place for. Logs of jobs, and adapters to take home."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from api.bodies.download import Download, hand_out
from api.openapi import FILE, TEXT, ZIP
from api.parts import Caller, Within
from api.routes.models import ModelFile
from core import ids
from core.errors import NotFound
from core.jobs import jobs
from core.serving import aliases, published
from core.store.storage import Storage, StorageMissing

router = APIRouter(prefix="/v1/attune", tags=["attune"])


@router.get("/fine_tuning/jobs/{fine_tuning_job_id}/log", response_class=Response, responses=TEXT)
def job_log(fine_tuning_job_id: str, caller: Caller, parts: Within) -> Response:
    """The engine's own output, of every attempt that has ended, oldest first."""
    with parts.database.read() as session:
        job = jobs.get(session, caller.project_id, fine_tuning_job_id)
    return StreamingResponse(_logs(parts.storage, job.log_keys), media_type="text/plain; charset=utf-8")


def _logs(storage: Storage, keys: list[str]) -> Iterator[bytes]:
    for number, key in enumerate(keys, 1):
        yield f"--- {number} of {len(keys)}: {key.rsplit('/', 1)[-1]} ---\n".encode()
        try:
            yield from storage.open(key)
        except StorageMissing:
            yield b"(removed)\n"


@router.get("/models/{model:path}/download", response_class=Response, responses=ZIP)
def download_model(model: str, request: Request, caller: Caller, parts: Within) -> Response:
    """The adapter in PEFT format with manifest and model card, as one zip. `Range` is honoured."""
    with parts.database.read() as session:
        row = published.get(session, caller.project_id, aliases.resolve(session, caller.project_id, model))
    name = f"{ids.slug(row.id, 120)}.zip"
    download = Download(row.zip_key, row.zip_bytes, row.zip_sha256, name, "application/zip")
    return hand_out(request, parts.storage, download, may_redirect=True)


@router.get("/models/{model:path}/files/{path:path}", response_class=Response, responses=FILE)
def download_model_file(model: str, path: str, request: Request, caller: Caller, parts: Within) -> Response:
    """One file of the adapter, such as adapter_model.safetensors."""
    with parts.database.read() as session:
        row = published.get(session, caller.project_id, aliases.resolve(session, caller.project_id, model))
    files = {file.path: file for file in map(ModelFile.model_validate, row.files)}
    if path not in files:
        listed = ", ".join(sorted(files))
        raise NotFound(f"'{row.id}' has no file '{path[:128]}'; it has {listed}.", code="file_not_found", param="path")
    file = files[path]
    download = Download(row.file_key(file.path), file.bytes, file.sha256, file.path.rsplit("/", 1)[-1])
    return hand_out(request, parts.storage, download, may_redirect=True)
