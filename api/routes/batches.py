"""/v1/batches: create, list, look, cancel. Workers answer the lines; the preparation child validates them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from api.bodies.form import Lifetime
from api.gate.replay import AsAsked
from api.parts import Caller, Within
from api.shapes.job_object import seconds
from api.shapes.wire import Page, Shown, ends
from core import replay
from core.batches import batches
from core.batches.models import Batch, BatchStatus
from core.errors import AttuneError
from core.serving import completions
from core.storable import FileId, MetadataKey, MetadataValue, Text

router = APIRouter(prefix="/v1/batches", tags=["batches"])


class BatchCreate(BaseModel):
    """`endpoint`: /v1/chat/completions or /v1/completions; every line's url has to be the same."""

    model_config = ConfigDict(frozen=True, extra="allow")

    input_file_id: FileId
    endpoint: Annotated[Text, Field(max_length=64)]
    completion_window: Literal["24h"]
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] | None = None
    output_expires_after: Lifetime | None = None

    def check(self) -> None:
        """Raises AttuneError for what the form alone cannot tell."""
        for name in sorted(self.model_extra or {}):
            if name in BatchObject.model_fields:
                message = f"'{name}' is written by the server; leave it out."
                raise AttuneError(message, code="read_only_parameter", param=name)
        if self.endpoint == "/v1/embeddings":
            raise completions.no_embeddings("endpoint")
        if self.endpoint not in completions.REQUESTS:
            raise AttuneError(
                f"A batch for '{self.endpoint}' is not offered here; use one of {list(completions.REQUESTS)}.",
                code="unsupported_endpoint",
                param="endpoint",
            )


class BatchErrorShown(Shown):
    code: str
    message: str
    line: int | None
    param: str | None


class BatchErrors(Shown):
    object: Literal["list"] = "list"
    data: list[BatchErrorShown]


class RequestCounts(Shown):
    total: int
    completed: int
    failed: int


class InputDetails(Shown):
    cached_tokens: int = 0


class OutputDetails(Shown):
    reasoning_tokens: int = 0


class BatchUsage(Shown):
    input_tokens: int
    input_tokens_details: InputDetails = InputDetails()
    output_tokens: int
    output_tokens_details: OutputDetails = OutputDetails()
    total_tokens: int


class BatchObject(Shown):
    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None  # where all lines ask the same
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: BatchStatus
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: BatchUsage
    metadata: dict[str, Any] | None


class BatchList(Page[BatchObject]):
    pass


def show_batch(row: Batch) -> BatchObject:
    errors = [BatchErrorShown.model_validate(error) for error in row.errors or []]
    return BatchObject(
        id=row.id,
        endpoint=row.endpoint,
        model=row.model,
        errors=BatchErrors(data=errors) if errors else None,
        input_file_id=row.input_file_id,
        completion_window=row.completion_window,
        status=BatchStatus(row.status),
        output_file_id=row.output_file_id,
        error_file_id=row.error_file_id,
        created_at=int(row.created_at),
        in_progress_at=seconds(row.in_progress_at),
        expires_at=int(row.expires_at),
        finalizing_at=seconds(row.finalizing_at),
        completed_at=seconds(row.completed_at),
        failed_at=seconds(row.failed_at),
        expired_at=seconds(row.expired_at),
        cancelling_at=seconds(row.cancelling_at),
        cancelled_at=seconds(row.cancelled_at),
        request_counts=RequestCounts(total=row.total, completed=row.completed, failed=row.failed),
        usage=BatchUsage(
            input_tokens=row.input_tokens,
            output_tokens=row.output_tokens,
            total_tokens=row.input_tokens + row.output_tokens,
        ),
        metadata=row.user_metadata,
    )


@router.post("")
def create_batch(body: BatchCreate, caller: Caller, parts: Within, asked: AsAsked) -> BatchObject:
    body.check()
    with parts.database.begin(alone_at=(asked.chain,)) as session:
        earlier = replay.earlier(session, caller.project_id, asked)
        if earlier is not None:
            row = batches.get(session, caller.project_id, earlier)
        else:
            row = batches.create(
                session,
                caller.project_id,
                endpoint=body.endpoint,
                input_file_id=body.input_file_id,
                completion_window=body.completion_window,
                metadata=body.metadata,
                output_lifetime_s=body.output_expires_after.seconds if body.output_expires_after else None,
            )
            replay.note(session, caller.project_id, {row.id: asked})
    parts.poke()
    return show_batch(row)


@router.get("")
def list_batches(
    caller: Caller,
    parts: Within,
    after: Annotated[str | None, Query(max_length=128)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> BatchList:
    with parts.database.read() as session:
        rows, has_more = batches.page(session, caller.project_id, after=after, limit=limit)
    data = [show_batch(row) for row in rows]
    return BatchList(data=data, **ends(data), has_more=has_more)


@router.get("/{batch_id}")
def retrieve_batch(batch_id: str, caller: Caller, parts: Within) -> BatchObject:
    with parts.database.read() as session:
        return show_batch(batches.get(session, caller.project_id, batch_id))


@router.post("/{batch_id}/cancel")
def cancel_batch(batch_id: str, caller: Caller, parts: Within) -> BatchObject:
    with parts.database.begin() as session:
        row = batches.cancel(session, caller.project_id, batch_id)
    parts.poke()
    return show_batch(row)
