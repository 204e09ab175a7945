"""An export of OpenAI's brought into this service: files stored, jobs started again, old model names as aliases.

Nothing is remembered beside the service itself, so that a second run, from wherever, goes on and doubles nothing:
a file is known by its hash, a job by the id in its metadata, an alias by its name.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
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


class AliasLine(BaseModel):
    alias: str
    model: str
    note: str | None = None  # why it does not lead there


class Import:
    """One run. `bases`: of OpenAI's base models to ours. The steps in their order: files, start, wait, name."""

    def __init__(self, client: OpenAI, export: Export, bases: dict[str, str], console: Console) -> None:
        self._client = client
        self._export = export
        self._bases = bases
        self._console = console
        self._jobs = export.jobs()
        self._here = _started_before(client)
        self._aliases = aliases.every_alias(client)
        self._usable = {model.id for model in client.models.list()}
        self.files: dict[str, FileLine] = {}
        self.jobs: list[JobLine] = []
        self.aliases: list[AliasLine] = []

    def store_files(self) -> None:
        """Every training and validation file that there is content of, once."""
        known = {_sha256_of(file): file for file in self._client.files.list(purpose="fine-tune")}
        # None again: the request that was lost may have stored the file, which the next run would find
        once = self._client.with_options(max_retries=0)
        for file in self._export.files():
            line = FileLine(openai_file=file.id, filename=file.filename, note=file.missing)
            path = self._export.content(file.id)
            if path is not None:
                sha256 = sha256_of(path)
                if sha256 not in known:
                    try:
                        with path.open("rb") as content:
                            known[sha256] = once.files.create(file=(_name(file), content), purpose="fine-tune")
                    except openai.BadRequestError as error:
                        line.note = f"refused here: {status_line(error)}"
                    else:
                        self._console.print(f"stored {file.id} as {known[sha256].id}", markup=False)
                if sha256 in known:
                    line.file, line.note = known[sha256].id, _fault_of(known[sha256])
            self.files[file.id] = line

    def start_jobs(self, *, start: bool) -> None:
        """Each job that succeeded at OpenAI, once; without `start`, only what was started before is looked up."""
        for exported in self._jobs:
            old = exported.job
            line = JobLine(
                openai_job=old.id, openai_status=old.status, openai_model=old.fine_tuned_model, base=old.model
            )
            self.jobs.append(line)
            ours = self._here.get(old.id)
            if ours is None or ours.status == "failed":
                line.note = self._obstacle(exported) or (None if start else "not started here; give --start")
                if line.note is None:
                    try:
                        ours = self._start(exported)
                    except (openai.BadRequestError, openai.NotFoundError) as error:
                        line.note = f"refused here: {status_line(error)}"
            if ours is not None:
                self._here[old.id] = ours
                line.job, line.status, line.model = ours.id, ours.status, ours.fine_tuned_model
                line.base = ours.model

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
            return f"it goes on from {job.model}, which has no alias here yet; run this again once it has"
        if base not in self._usable:
            return f"no base of ours for {job.model}: give --map {job.model}=BASE, one that `attune models list` shows"
        return None

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
        """Until every job that was started here has ended."""
        for line in self.jobs:
            while line.job is not None and line.status not in ENDED:
                job = self._client.fine_tuning.jobs.retrieve(line.job)
                line.status, line.model = job.status, job.fine_tuned_model
                if job.status in ENDED:
                    self._console.print(f"{job.id} {job.status}", markup=False)
                else:
                    time.sleep(POLL_S)

    def name_models(self, *, bases: bool) -> None:
        """Let the models here answer to their old names; with `bases`, the bases to OpenAI's too."""
        for exported, line in zip(self._jobs, self.jobs, strict=True):
            if line.job is None or line.model is None:
                continue
            if line.openai_model:
                self._name(line.openai_model, line.model)
            self._name_checkpoints(exported, line.job)
        if bases:
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


def bases_of(jobs: Sequence[ExportedJob]) -> dict[str, int]:
    """OpenAI's base models that jobs were trained on -> how many."""
    counts: dict[str, int] = {}
    for exported in jobs:
        if not exported.job.model.startswith("ft:"):
            counts[exported.job.model] = counts.get(exported.job.model, 0) + 1
    return counts


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
