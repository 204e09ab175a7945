"""What leaves the service as a webhook: one row for each move of a job or batch, written in its transaction.

A row that is rolled back was never sent, and one that is committed will be: `core.webhooks.queue` makes deliveries
of it later, on the web side. The worker writes rows here and sees neither endpoints nor their secrets.
"""

from __future__ import annotations

import json
import time
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from core import ids
from core.batches.models import ENDED, Batch
from core.models import Job, JobStatus
from core.webhooks.models import WebhookEvent

# Moves that are told; the first three are OpenAI's, the others ours.
_OF_STATUS = {
    JobStatus.SUCCEEDED: "fine_tuning.job.succeeded",
    JobStatus.FAILED: "fine_tuning.job.failed",
    JobStatus.CANCELLED: "fine_tuning.job.cancelled",
    JobStatus.RUNNING: "fine_tuning.job.running",
    JobStatus.PAUSED: "fine_tuning.job.paused",
}
CHECKPOINT = "fine_tuning.job.checkpoint.created"
_BATCH = "batch."
EVENT_TYPES = (*_OF_STATUS.values(), CHECKPOINT, *(f"{_BATCH}{status}" for status in ENDED))


def status_moved(session: Session, job: Job) -> None:
    """To be called where a status moves, in its transaction, with the row as it is now."""
    kind = _OF_STATUS.get(JobStatus(job.status))
    if kind is not None:
        _add(session, kind, job.project_id, job.id, job.status, job.event_seq, None)


def checkpoint_created(session: Session, job_id: str, checkpoint_id: str, model_id: str) -> None:
    """To be called in the transaction that publishes a checkpoint, after its event was written."""
    found = select(Job.project_id, Job.status, Job.event_seq).where(Job.id == job_id)
    project_id, status, seq = session.execute(found).one()
    data = {"checkpoint": checkpoint_id, "fine_tuned_model_checkpoint": model_id}
    _add(session, CHECKPOINT, project_id, job_id, status, seq, data)


def batch_ended(session: Session, batch: Batch) -> None:
    """To be called in the transaction that ends a batch. A batch has this one event, so it is the first."""
    _add(session, f"{_BATCH}{batch.status}", batch.project_id, batch.id, batch.status, 1, None)


def _add(
    session: Session, kind: str, project_id: str, object_id: str, status: str, seq: int, data: dict[str, str] | None
) -> None:
    session.add(
        WebhookEvent(
            id=ids.webhook_event_id(),
            project_id=project_id,
            type=kind,
            object_id=object_id,
            status=status,
            seq=seq,
            data=data,
        )
    )


def content_of(event: WebhookEvent) -> dict[str, Any]:
    """OpenAI's event with `attune` beside it. https://platform.openai.com/docs/api-reference/webhook-events"""
    return {
        "id": event.id,
        "object": "event",
        "created_at": int(event.created_at),
        "type": event.type,
        "data": {"id": event.object_id},
        # no order is promised: by seq a receiver knows what is older
        "attune": {"seq": event.seq, "status": event.status, "project": event.project_id, **(event.data or {})},
    }


def body_of(event: WebhookEvent) -> bytes:
    """The bytes that are signed and sent, the same at every try."""
    return json.dumps(content_of(event), separators=(",", ":")).encode()


def sample(project_id: str, kind: str) -> WebhookEvent:
    """An event of that type as a receiver would see it, of a job or batch that is none; it belongs to no session."""
    status = kind.rsplit(".", 1)[-1] if kind != CHECKPOINT else JobStatus.RUNNING
    return WebhookEvent(
        id=ids.webhook_event_id(),
        project_id=project_id,
        type=kind,
        object_id=("batch_" if kind.startswith(_BATCH) else "ftjob-") + "0" * 24,
        status=status,
        seq=0,
        data={"test": True},
        created_at=time.time(),
    )
