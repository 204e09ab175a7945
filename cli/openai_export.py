"""What OpenAI holds of a project's fine-tuning, read into a folder: jobs with their checkpoints, files, results.

Every object is a file of its own, written whole or not at all, so that a second run reads on where the first ended.
The folder holds training data and no key; it is made for its owner alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
from openai import APIResponse, BaseModel, OpenAI
from openai.types import FileObject
from openai.types.fine_tuning import FineTuningJob
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint
from rich.console import Console
from rich.markup import escape

from cli.connection import status_line

ENDED = ("succeeded", "failed", "cancelled")
PAGE = 100
BLOCK_BYTES = 1024 * 1024
# What a single object may answer without anything being wrong with the key or the service
GONE = (openai.BadRequestError, openai.PermissionDeniedError, openai.NotFoundError)


class ExportedFile(BaseModel):
    """`missing`: why there is no content, in OpenAI's words."""

    id: str
    filename: str | None = None
    bytes: int | None = None
    missing: str | None = None


@dataclass(frozen=True)
class ExportedJob:
    job: FineTuningJob
    checkpoints: list[FineTuningJobCheckpoint]

    @property
    def suffix(self) -> str | None:
        given = (self.job.model_extra or {}).get("user_provided_suffix")
        parts = (self.job.fine_tuned_model or "").split(":")  # ft:base:organization:suffix:id
        return given or (parts[3] if len(parts) > 4 else None) or None


class Export:
    """The folder. `read` fills it; the rest tells what is in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._jobs = folder / "jobs"
        self._files = folder / "files"
        self._results = folder / "results"
        self._complete = folder / "complete.json"  # written last

    def read(self, client: OpenAI, console: Console) -> None:
        """Everything that is not here yet."""
        for folder in (self.folder, self._jobs, self._files, self._results):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._complete.unlink(missing_ok=True)
        wanted: dict[str, FileObject | None] = {}
        results: list[str] = []
        for job in client.fine_tuning.jobs.list(limit=PAGE):
            self._read_job(client, job, console)
            wanted.update((file, None) for file in (job.training_file, job.validation_file) if file)
            results += job.result_files or []
        wanted |= {file.id: file for file in client.files.list(purpose="fine-tune", limit=PAGE)}
        for file_id, file in wanted.items():
            self._read_file(client, file_id, file, console)
        for file_id in results:
            self._read_result(client, file_id)
        _write_json(self._complete, {"base_url": str(client.base_url)})

    def _read_job(self, client: OpenAI, job: FineTuningJob, console: Console) -> None:
        path = self._jobs / f"{job.id}.json"
        if path.exists() and json.loads(path.read_text())["job"]["status"] in ENDED:
            return
        checkpoints: list[FineTuningJobCheckpoint] = []
        if job.status == "succeeded":
            checkpoints = list(client.fine_tuning.jobs.checkpoints.list(job.id, limit=PAGE))
        shown = [checkpoint.to_dict(mode="json") for checkpoint in checkpoints]
        _write_json(path, {"job": job.to_dict(mode="json"), "checkpoints": shown})
        console.print(f"read {job.id} {job.status}", markup=False)

    def _read_file(self, client: OpenAI, file_id: str, file: FileObject | None, console: Console) -> None:
        record = self._files / f"{file_id}.json"
        is_here = self.content(file_id) is not None
        if is_here and record.exists():  # an earlier run may have ended between the two
            return
        found = ExportedFile(id=file_id)
        try:
            known = file or client.files.retrieve(file_id)
            found = ExportedFile(id=file_id, filename=known.filename, bytes=known.bytes)
            if not is_here:
                _download(client, file_id, self._files / f"{file_id}.jsonl")
        except GONE as error:
            found.missing = status_line(error)
        _write_json(record, found.to_dict(mode="json"))
        console.print(escape(f"read {file_id}" if found.missing is None else f"{file_id}: {found.missing}"))

    def _read_result(self, client: OpenAI, file_id: str) -> None:
        path = self._results / f"{file_id}.csv"
        if not path.exists():
            try:
                _download(client, file_id, path)
            except GONE:
                return  # a record of the past, which nothing here depends on

    @property
    def is_complete(self) -> bool:
        return self._complete.exists()

    def jobs(self) -> list[ExportedJob]:
        """Oldest first, so that a job comes after the one it continues from."""
        found = [_job_of(json.loads(path.read_text())) for path in self._jobs.glob("*.json")]
        # created_at has whole seconds, and small jobs follow each other within one
        base_of = {one.job.fine_tuned_model: one.job.model for one in found if one.job.fine_tuned_model}
        return sorted(found, key=lambda one: (one.job.created_at, _generation(one.job.model, base_of), one.job.id))

    def files(self) -> Iterator[ExportedFile]:
        for path in sorted(self._files.glob("*.json")):
            yield ExportedFile.construct(**json.loads(path.read_text()))

    def content(self, file_id: str) -> Path | None:
        """Where a file's content lies. One that OpenAI no longer has may be put there by hand."""
        path = self._files / f"{file_id}.jsonl"
        return path if path.exists() else None


def _generation(model: str, base_of: dict[str, str]) -> int:
    """How many jobs lie between `model` and an untrained base. `base_of`: what each job's model was trained from."""
    generation = 0
    while model in base_of and generation < len(base_of):
        model = base_of[model]
        generation += 1
    return generation


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _job_of(record: dict[str, Any]) -> ExportedJob:
    """As the client itself would read it: what a server leaves out or adds is no fault."""
    checkpoints = [FineTuningJobCheckpoint.construct(**one) for one in record["checkpoints"]]
    return ExportedJob(FineTuningJob.construct(**record["job"]), checkpoints)


def _download(client: OpenAI, file_id: str, path: Path) -> None:
    """In pieces: OpenAI holds files of up to 8 GB."""
    with client.files.with_streaming_response.content(file_id) as content:
        _write(path, _pieces(content))


def _pieces(content: APIResponse[bytes]) -> Iterator[bytes]:
    try:
        yield from content.iter_bytes(BLOCK_BYTES)
    except Exception as error:  # the client names it while it asks, and not while one reads: httpx's, or httpx2's
        raise openai.APIConnectionError(request=content.http_request) from error


def _write_json(path: Path, content: object) -> None:
    _write(path, [json.dumps(content, indent=2, ensure_ascii=False).encode()])


def _write(path: Path, content: Iterable[bytes]) -> None:
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(content)
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise
