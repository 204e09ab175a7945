"""The tables. Migrations make them (never `create_all`); every row of a tenant carries its project.

Times are seconds since the epoch by the database's clock. JSON columns hold what pydantic models of `core`
wrote; nothing queries inside them but `metadata`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from core.db import db_now

Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[object, object]] = {
        float: Double(),
        int: BigInteger(),
        str: Text(),
        bool: Boolean(),
        bytes: LargeBinary(),
        dict[str, Any]: Json,
        list[Any]: Json,
    }


class JobStatus(StrEnum):
    VALIDATING_FILES = "validating_files"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


TERMINAL = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)

# The life of a job; core.jobs.jobs has one function for each edge.
TRANSITIONS: dict[JobStatus, tuple[JobStatus, ...]] = {
    JobStatus.VALIDATING_FILES: (JobStatus.QUEUED, JobStatus.FAILED, JobStatus.CANCELLED),
    JobStatus.QUEUED: (JobStatus.RUNNING, JobStatus.PAUSED, JobStatus.CANCELLED),
    JobStatus.RUNNING: (JobStatus.QUEUED, JobStatus.PAUSED, *TERMINAL),
    JobStatus.PAUSED: (JobStatus.QUEUED, JobStatus.CANCELLED),
    JobStatus.SUCCEEDED: (),
    JobStatus.FAILED: (),
    JobStatus.CANCELLED: (),
}


class Project(Base):
    """A tenant. `slug` is the organization part of its model ids."""

    __tablename__ = "projects"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    slug: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[float] = mapped_column(default=db_now())
    erased_at: Mapped[float | None]
    max_jobs: Mapped[int | None]  # and batches, unfinished at once; None, here and below: unlimited
    max_stored_bytes: Mapped[int | None]
    max_requests_per_minute: Mapped[int | None]


class ApiKey(Base):
    """A key's hash; the key itself was shown once. An operator's key has scope `operator` beside its project."""

    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    name: Mapped[str]
    prefix: Mapped[str]  # what may be shown of it
    secret_sha256: Mapped[str]
    is_operator: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[float] = mapped_column(default=db_now())
    revoked_at: Mapped[float | None]
    last_used_at: Mapped[float | None]
    scopes: Mapped[list[Any]]  # core.access.projects.Scope; an operator's key may do everything
    expires_at: Mapped[float | None]


class File(Base):
    """An uploaded object. status: processed, or error with findings."""

    __tablename__ = "files"
    __table_args__ = (Index(None, "project_id", "created_at", "id"),)
    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    filename: Mapped[str]
    purpose: Mapped[str]
    bytes: Mapped[int]
    sha256: Mapped[str]
    storage_key: Mapped[str]
    status: Mapped[str]
    status_details: Mapped[str | None]
    examples: Mapped[int | None]  # of a fine-tune file
    kind: Mapped[str | None]  # of its examples: core.data.examples.Kind
    findings: Mapped[list[Any] | None]
    created_at: Mapped[float] = mapped_column(default=db_now())
    expires_at: Mapped[float | None]
    deleted_at: Mapped[float | None]


class Job(Base):
    """A fine-tuning job: its row is the queue. `attempt` and `lease_until` are the claim."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index(None, "project_id", "created_at", "id"),
        Index(None, "status", "priority", "created_at"),
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    status: Mapped[str] = mapped_column(String(32))
    created_at: Mapped[float] = mapped_column(default=db_now())
    started_at: Mapped[float | None]  # of the first attempt at training
    finished_at: Mapped[float | None]
    estimated_finish: Mapped[float | None]

    base_model: Mapped[str]
    model: Mapped[str]  # what the user named: the base, or the model it continues from
    spec: Mapped[dict[str, Any]]  # core.spec.JobSpec
    training_file: Mapped[str]
    validation_file: Mapped[str | None]
    suffix: Mapped[str | None]
    seed: Mapped[int]
    request: Mapped[dict[str, Any]]  # method, hyperparameters and integrations as they were sent, for the echo
    user_metadata: Mapped[dict[str, Any] | None]

    # placement
    priority: Mapped[int] = mapped_column(Integer, default=0)
    label: Mapped[str | None]  # of the worker it needs
    required_bytes: Mapped[int] = mapped_column(default=0)  # of the device, by the plan
    max_duration_s: Mapped[float | None]  # of training, over all attempts
    not_before: Mapped[float] = mapped_column(default=0.0)  # backoff after a loss

    # the claim
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    lease_until: Mapped[float | None]
    worker_id: Mapped[str | None]
    attempt_started_at: Mapped[float | None]
    spent_s: Mapped[float] = mapped_column(default=0.0)  # training time of ended attempts
    losses: Mapped[int] = mapped_column(Integer, default=0)  # claims lost in a row at `loss_step`
    loss_step: Mapped[int] = mapped_column(Integer, default=-1)
    attempts_lost: Mapped[int] = mapped_column(Integer, default=0, server_default="0")  # in all, for the operator
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    pause_requested: Mapped[bool] = mapped_column(default=False)

    # what preparation and the first claim fixed
    resolved: Mapped[dict[str, Any] | None]  # core.spec.Resolved
    reasons: Mapped[dict[str, Any] | None]  # hyperparameter -> why
    plan: Mapped[dict[str, Any] | None]  # and within it core.planning.measured_run.MeasuredRun
    execution: Mapped[dict[str, Any] | None]  # core.spec.Execution
    template_date: Mapped[str | None]
    template_hash: Mapped[str | None]

    # progress and outcome
    event_seq: Mapped[int] = mapped_column(Integer, default=0)
    reported_step: Mapped[int] = mapped_column(Integer, default=0)
    snapshot_step: Mapped[int] = mapped_column(Integer, default=0)
    total_steps: Mapped[int | None] = mapped_column(Integer)
    trained_tokens: Mapped[int | None]
    error: Mapped[dict[str, Any] | None]
    report: Mapped[dict[str, Any] | None]  # core.protocol.FinalReport
    fine_tuned_model: Mapped[str | None]
    result_files: Mapped[list[Any]] = mapped_column(default=list)
    swept_at: Mapped[float | None]  # when the leftovers of a finished job were removed from storage
    log_keys: Mapped[list[Any]] = mapped_column(default=list)  # engine logs of ended attempts, oldest first
    integrations: Mapped[list[Any] | None]  # as asked for, with the entity and run id that each became


class JobEvent(Base):
    """seq is 1, 2, 3 … within a job, without gaps (it is taken from the job's row in the same transaction)."""

    __tablename__ = "job_events"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    id: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[float] = mapped_column(default=db_now())
    level: Mapped[str] = mapped_column(String(8))
    type: Mapped[str] = mapped_column(String(8))
    message: Mapped[str]
    data: Mapped[dict[str, Any] | None]


class Snapshot(Base):
    """The private state a run resumes from, one archive in storage."""

    __tablename__ = "snapshots"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    step: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    attempt: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    storage_key: Mapped[str]
    bytes: Mapped[int]
    sha256: Mapped[str]
    created_at: Mapped[float] = mapped_column(default=db_now())


class Model(Base):
    """A published adapter: a job's final model, or one of its checkpoints. Usable as a model id."""

    __tablename__ = "models"
    __table_args__ = (Index(None, "project_id", "created_at", "id"),)
    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    base_model: Mapped[str] = mapped_column(index=True)
    base_revision: Mapped[str]
    quantization: Mapped[str] = mapped_column(String(16))
    is_checkpoint: Mapped[bool] = mapped_column(default=False)
    step: Mapped[int] = mapped_column(Integer)
    storage_prefix: Mapped[str]
    files: Mapped[list[Any]]  # [{path, bytes, sha256}]; `file_key` says where
    zip_key: Mapped[str]
    zip_bytes: Mapped[int]
    zip_sha256: Mapped[str]
    adapter_sha256: Mapped[str]
    template_hash: Mapped[str]
    proof: Mapped[dict[str, Any] | None]
    created_at: Mapped[float] = mapped_column(default=db_now())
    deleted_at: Mapped[float | None]

    def file_key(self, path: str) -> str:
        return model_file_key(self.storage_prefix, path)


def model_file_key(prefix: str, path: str) -> str:
    """Where in storage the file `path` of an adapter lies; its zip stands beside these."""
    return f"{prefix}/files/{path}"


class Checkpoint(Base):
    """OpenAI's fine_tuning.job.checkpoint: a name for a model at a step, with its metrics."""

    __tablename__ = "checkpoints"
    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), index=True)
    step: Mapped[int] = mapped_column(Integer)
    metrics: Mapped[dict[str, Any]]
    created_at: Mapped[float] = mapped_column(default=db_now())


class BaseModelRow(Base):
    """An entry of the catalog. status: available (shipped, not fetched), preparing, ready, error."""

    __tablename__ = "base_models"
    id: Mapped[str] = mapped_column(primary_key=True)
    source: Mapped[str] = mapped_column(String(8))  # hub or folder
    location: Mapped[str]  # repository id, or folder name below the models directory
    revision: Mapped[str]  # commit, or the hash of a folder's files; empty until prepared
    status: Mapped[str] = mapped_column(String(16))
    error: Mapped[str | None]
    licence: Mapped[str | None]
    parameters: Mapped[int | None]
    context_tokens: Mapped[int | None]
    gated: Mapped[bool] = mapped_column(default=False)
    description: Mapped[str | None]
    shape: Mapped[dict[str, Any] | None]  # config.json
    template_hash: Mapped[str | None]
    files: Mapped[list[Any]] = mapped_column(default=list)  # [{path, bytes, sha256}]
    light_prefix: Mapped[str | None]  # its tokenizer and configuration in storage
    created_at: Mapped[float] = mapped_column(default=db_now())
    removed_at: Mapped[float | None]


class Worker(Base):
    """A worker as it last described itself. `incarnation` changes with every start of the same worker."""

    __tablename__ = "workers"
    id: Mapped[str] = mapped_column(primary_key=True)
    incarnation: Mapped[str]
    host: Mapped[str]
    pid: Mapped[int] = mapped_column(Integer)
    device: Mapped[str]
    device_name: Mapped[str]
    memory_bytes: Mapped[int]
    labels: Mapped[list[Any]] = mapped_column(default=list)
    price_per_hour: Mapped[float | None]  # in the operator's own currency
    resident_base: Mapped[str | None]
    job_id: Mapped[str | None]
    state: Mapped[str] = mapped_column(String(16))  # idle, busy, draining
    versions: Mapped[dict[str, Any]] = mapped_column(default=dict)
    started_at: Mapped[float] = mapped_column(default=db_now())
    beat_at: Mapped[float] = mapped_column(default=db_now())


class Server(Base):
    """An OpenAI-compatible generation server. base_model null: any base of the catalog."""

    __tablename__ = "servers"
    id: Mapped[str] = mapped_column(primary_key=True)
    base_model: Mapped[str | None]
    address: Mapped[str]
    device: Mapped[str]
    started_at: Mapped[float] = mapped_column(default=db_now())
    beat_at: Mapped[float] = mapped_column(default=db_now())


class DeviceLease(Base):
    """Who may use a GPU that an engine and a server share."""

    __tablename__ = "device_leases"
    device_id: Mapped[str] = mapped_column(primary_key=True)
    holder: Mapped[str]
    until: Mapped[float]


class CheckpointPermission(Base):
    """A model or checkpoint shared with another project: `project_id` may use it."""

    __tablename__ = "checkpoint_permissions"
    __table_args__ = (UniqueConstraint("model_id", "project_id"),)
    id: Mapped[str] = mapped_column(primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    owner_project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)  # the model's
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    created_at: Mapped[float] = mapped_column(default=db_now())


class AuditEntry(Base):
    """Who called what. Rows are only added, and removed when they are old (core.migrate has the triggers).

    No foreign keys: it outlives the keys and projects that it names.
    """

    __tablename__ = "audit_log"
    __table_args__ = (Index(None, "project_id", "created_at", "id"), Index(None, "created_at", "id"))
    id: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[float] = mapped_column(default=db_now())
    project_id: Mapped[str]
    key_id: Mapped[str]
    key_name: Mapped[str]
    is_operator: Mapped[bool]
    method: Mapped[str] = mapped_column(String(8))
    route: Mapped[str]  # its pattern
    object_id: Mapped[str | None]
    status: Mapped[int] = mapped_column(Integer)  # of the answer; 499: the client had left
    request_id: Mapped[str]


class Creation(Base):
    """What a job, batch or file was made by: a client that sends its request again is shown that one, no second."""

    __tablename__ = "creations"
    __table_args__ = (Index(None, "key_id", "request_sha256"),)
    object_id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"))
    request_sha256: Mapped[str]
    made_by: Mapped[int] = mapped_column(Integer)  # the retry count of the request that made it
    answered: Mapped[int] = mapped_column(Integer)  # the highest retry count that was shown it
    idempotency_key: Mapped[str | None]
    created_at: Mapped[float] = mapped_column(default=db_now())


class KeptAnswer(Base):
    """The answer to a request with an Idempotency-Key. status null: `holder` is at work on it."""

    __tablename__ = "kept_answers"
    key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"), primary_key=True)
    idempotency_key: Mapped[str] = mapped_column(primary_key=True)
    request_sha256: Mapped[str]  # of project, method, path, query and body
    holder: Mapped[str]
    held_until: Mapped[float]
    status: Mapped[int | None] = mapped_column(Integer)
    body: Mapped[bytes | None]  # sealed: an answer may hold a secret that is shown once
    created_at: Mapped[float] = mapped_column(default=db_now(), index=True)
