"""An export of OpenAI's brought into this service: files stored, jobs started again, old model names as aliases.

Nothing is remembered beside the service itself, so that a second run, from wherever, goes on and doubles nothing:
a file is known by its hash, a job by the id in its metadata, an alias by its name.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openai
from openai import BaseModel, OpenAI
from openai.types import FileObject
from openai.types.fine_tuning import FineTuningJob
from rich.console import Console

from cli import aliases
from cli.connection import status_line
from cli.openai_export import ENDED, PAGE, Export, ExportedFile, ExportedJob, sha256_of

ORIGIN = "openai_job"  # the key in a job's metadata that names what it was at OpenAI
MAX_METADATA = 16
METHODS = ("supervised", "dpo")
POLL_S = 2.0
WHOLE_FILE_BYTES = 512 * 1024 * 1024  # what one request may bring here; a larger file is sent in parts
_HYPERPARAMETERS = ("n_epochs", "batch_size", "learning_rate_multiplier", "beta")


class FileLine(BaseModel):
    """A file of OpenAI's, and what it is here. `note`: why there is none, or none that can be trained on."""

    openai_file: str
    filename: str | None = None
    file: str | None = None
    note: str | None = None


class JobLine(BaseModel):
    openai_job: str
    openai_status: str
    openai_model: str | None = None
    base: str
    job: str | None = None
    status: str | None = None
    model: str | None = None
    note: str | None = None  # why there is no job here

    def show(self, job: FineTuningJob) -> None:
        """`job`: what it is here."""
        self.job, self.status, self.model, self.base = job.id, job.status, job.fine_tuned_model, job.model


class AliasLine(BaseModel):
    alias: str
    model: str
    note: str | None = None  # why it does not lead there


class Import:
    """One run: `store_files`, then `start_jobs` and `name_models`, and `wait` for all that hangs on them.

    `bases`: OpenAI's base models -> ours. `start`: train again what succeeded there, and not only look it up.
    `alias_bases`: our bases answer to the names of OpenAI's, too.
    """

    def __init__(
        self,
        client: OpenAI,
        export: Export,
        bases: dict[str, str],
        console: Console,
        *,
        start: bool = False,
        alias_bases: bool = False,
    ) -> None:
        self._client = client
        self._export = export
        self._bases = bases
        self._console = console
        self._start_again = start
        self._alias_bases = alias_bases
        self._jobs = export.jobs()
        self._aliases = aliases.every_alias(client)
        self._usable = {model.id for model in client.models.list()}  # by any of their names
        self._tried: set[str] = set()  # once in a run, whatever becomes of it
        here = _started_before(client)
        self.files: dict[str, FileLine] = {}
        self.jobs = [_line_of(exported.job, here.get(exported.job.id)) for exported in self._jobs]
        self.aliases: list[AliasLine] = []

    def store_files(self) -> None:
        """Every training and validation file that there is content of, once."""
        known = {_sha256_of(file): file for file in self._client.files.list(purpose="fine-tune")}
        for file in self._export.files():
            line = FileLine(openai_file=file.id, filename=file.filename, note=file.missing)
            path = self._export.content(file.id)
            if path is not None:
                sha256 = sha256_of(path)
                if sha256 not in known:
                    try:
                        known[sha256] = self._send(path, _name(file))
                    except openai.BadRequestError as error:
                        line.note = f"refused here: {status_line(error)}"
                    else:
                        self._console.print(f"stored {file.id} as {known[sha256].id}", markup=False)
                if sha256 in known:
                    line.file, line.note = known[sha256].id, _fault_of(known[sha256])
            self.files[file.id] = line

    def _send(self, path: Path, name: str) -> FileObject:
        if path.stat().st_size <= WHOLE_FILE_BYTES:
            # Not again by itself: a request whose answer was lost may have stored the file, which the next run finds
            once = self._client.with_options(max_retries=0)
            with path.open("rb") as content:
                return once.files.create(file=(name, content), purpose="fine-tune")
        upload = self._client.uploads.upload_file_chunked(
            file=path, filename=name, mime_type="application/jsonl", purpose="fine-tune"
        )
        assert upload.file is not None, "a completed upload has its file"
        return upload.file

    def start_jobs(self) -> None:
        """Each job that succeeded at OpenAI, once; one that goes on from another's model once that name answers."""
        for exported, line in zip(self._jobs, self.jobs, strict=True):
            if line.openai_job in self._tried or (line.job is not None and line.status != "failed"):
                continue
            line.note = self._obstacle(exported)
            if line.note is None and not self._start_again:
                line.note = "not started here; give --start"
            if line.note is None:
                self._tried.add(line.openai_job)
                try:
                    line.show(self._start(exported))
                except (openai.BadRequestError, openai.NotFoundError) as error:
                    line.note = f"refused here: {status_line(error)}"

    def _obstacle(self, exported: ExportedJob) -> str | None:
        """Why the job cannot be started here."""
        job = exported.job
        if job.status != "succeeded":
            return f"it is {job.status} at OpenAI" if job.status not in ENDED else f"it {_ended(job.status)} at OpenAI"
        if job.method and job.method.type not in METHODS:
            return f"the method {job.method.type} is not offered here"
        for file_id in (job.training_file, job.validation_file):
            line = self.files.get(file_id) if file_id else None
            if file_id and (line is None or line.file is None or line.note is not None):
                return f"{file_id}: {line.note if line else 'it is not in the export'}"
        base = self._base_of(job)
        if base is None:
            return self._unanswered(job.model)
        if base not in self._usable:
            return f"no base of ours for {job.model}: give --map {job.model}=BASE, one that `attune models list` shows"
        return None

    def _unanswered(self, model: str) -> str:
        """What a job waits for that goes on from `model`, when no alias here has that name."""
        earlier = next((line for line in self.jobs if line.openai_model == model), None)
        if earlier is None or earlier.job is None or earlier.status is None or earlier.status == "succeeded":
            return f"it goes on from {model}, which nothing here answers to; `attune aliases set` may change that"
        if earlier.status in ENDED:
            return f"it goes on from {model}, whose job here, {earlier.job}, {_ended(earlier.status)}"
        return f"it goes on from {model}: give --wait, or run this again when {earlier.job} has ended"

    def _base_of(self, job: FineTuningJob) -> str | None:
        if job.model.startswith("ft:"):  # continued from a fine-tuned model: here from what answers to its name
            return job.model if job.model in self._aliases else None
        return self._bases.get(job.model, job.model)

    def _start(self, exported: ExportedJob) -> FineTuningJob:
        old = exported.job
        kept = list((old.metadata or {}).items())[: MAX_METADATA - 1]
        body: dict[str, Any] = {
            "model": self._base_of(old),
            "training_file": self.files[old.training_file].file,
            "validation_file": self.files[old.validation_file].file if old.validation_file else None,
            "method": _method(old),
            "suffix": exported.suffix,
            "seed": old.seed,
            "metadata": {**dict(kept), ORIGIN: old.id},
        }
        # the whole body as it is, so that the service and not a client's idea of its types judges it
        job = self._client.post("/fine_tuning/jobs", cast_to=FineTuningJob, body=body)
        self._console.print(f"started {old.id} as {job.id}", markup=False)
        return job

    def wait(self) -> None:
        """Until every job that was started here has ended, those included that go on from another's model."""
        while at_work := [line for line in self.jobs if line.job is not None and line.status not in ENDED]:
            for line in at_work:
                assert line.job is not None
                line.show(self._client.fine_tuning.jobs.retrieve(line.job))
            ended = [line for line in at_work if line.status in ENDED]
            for line in ended:
                self._console.print(f"{line.job} {line.status}", markup=False)
            if ended:
                self.name_models()
                self.start_jobs()
            else:
                time.sleep(POLL_S)

    def name_models(self) -> None:
        """Let the models here answer to their old names."""
        self.aliases = []
        for exported, line in zip(self._jobs, self.jobs, strict=True):
            if line.job is None or line.model is None:
                continue
            if line.openai_model:
                self._name(line.openai_model, line.model)
            self._name_checkpoints(exported, line.job)
        if self._alias_bases:
            for base in bases_of(self._jobs):
                if base in self._bases and self._bases[base] in self._usable:
                    self._name(base, self._bases[base])

    def _name_checkpoints(self, exported: ExportedJob, job_id: str) -> None:
        """Those of the same step: the others have no counterpart."""
        names = {one.step_number: one.fine_tuned_model_checkpoint for one in exported.checkpoints}
        names = {step: name for step, name in names.items() if name != exported.job.fine_tuned_model}
        for ours in self._client.fine_tuning.jobs.checkpoints.list(job_id, limit=PAGE) if names else ():
            if ours.step_number in names:
                self._name(names[ours.step_number], ours.fine_tuned_model_checkpoint)

    def _name(self, alias: str, model: str) -> None:
        line = AliasLine(alias=alias, model=model)
        self.aliases.append(line)
        earlier = self._aliases.get(alias)
        if earlier is not None:
            if earlier.model != model:
                line.note = f"it is an alias of {earlier.model} already, and was left so"
            return
        try:
            self._aliases[alias] = aliases.make(self._client, alias, model)
        except (openai.BadRequestError, openai.NotFoundError) as error:
            line.note = status_line(error)
        else:
            self._usable.add(alias)


def bases_of(jobs: Sequence[ExportedJob]) -> dict[str, int]:
    """OpenAI's base models that jobs were trained on -> how many."""
    counts: dict[str, int] = {}
    for exported in jobs:
        if not exported.job.model.startswith("ft:"):
            counts[exported.job.model] = counts.get(exported.job.model, 0) + 1
    return counts


def _line_of(job: FineTuningJob, here: FineTuningJob | None) -> JobLine:
    line = JobLine(openai_job=job.id, openai_status=job.status, openai_model=job.fine_tuned_model, base=job.model)
    if here is not None:
        line.show(here)
    return line


def _started_before(client: OpenAI) -> dict[str, FineTuningJob]:
    """OpenAI's id -> the job here, one that did not fail before one that did."""
    found: dict[str, FineTuningJob] = {}
    for job in client.fine_tuning.jobs.list(limit=PAGE):  # newest first
        origin = (job.metadata or {}).get(ORIGIN)
        if origin is not None and (origin not in found or found[origin].status == "failed"):
            found[origin] = job
    return found


def _method(job: FineTuningJob) -> dict[str, Any]:
    kind = job.method.type if job.method else "supervised"
    own = getattr(job.method, kind, None)
    chosen = (own and own.hyperparameters) or job.hyperparameters
    values = {name: getattr(chosen, name, None) for name in _HYPERPARAMETERS}
    return {"type": kind, kind: {"hyperparameters": {name: value for name, value in values.items() if value}}}


def _name(file: ExportedFile) -> str:
    name = file.filename or file.id
    return name if name.endswith(".jsonl") else f"{name}.jsonl"


def _sha256_of(file: FileObject) -> str:
    ours: Any = (file.model_extra or {}).get("attune", {})
    return str(ours.get("sha256"))


def _fault_of(file: FileObject) -> str | None:
    return f"it has errors here: {file.status_details}" if file.status == "error" else None


def _ended(status: str) -> str:
    return "failed" if status == "failed" else f"was {status}"
