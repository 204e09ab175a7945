"""What must hold after every scenario, asked of the database, the store and the receiver themselves.

A violation is a sentence. Nothing here goes through the API, whose word is what is being checked.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator

from openai import OpenAI
from sqlalchemy import select
from sqlalchemy.orm import Session

from core.db import Database, db_now
from core.models import TERMINAL, File, Job, JobEvent, Model, Snapshot
from core.store.storage import Storage, StorageMissing
from core.upkeep.backup import named_keys
from core.webhooks.models import WebhookDelivery, WebhookEndpoint, WebhookEvent
from tests.faults.history import Intent
from tests.faults.rig import Rig

RUN_S = 24 * 3600  # the age at which a signature is still looked at: a run may take that long
BROKEN = ("Traceback (most recent call last)", "attempt_broke", "request_failed", "janitor_task_broke", "relay_broke")


def violations(rig: Rig) -> list[str]:
    """Everything that is not as it must be; run it when all jobs have ended."""
    storage = rig.storage()
    with rig.database() as database, database.read() as session:
        return [
            *_jobs(session, storage, rig.history.jobs),
            *_claims(session),
            *_events(session),
            *_objects(database, storage),
            *_files(session, storage, rig),
            *_webhooks(session, rig),
            *_logs(rig),
        ]


def _jobs(session: Session, storage: Storage, intents: list[Intent]) -> Iterator[str]:
    """One job for every acknowledged create and at most one for the others; each with its one right end."""
    made = Counter((job.user_metadata or {}).get("intent") for job in session.scalars(select(Job)))
    for intent in intents:
        count = made[intent.name]
        if count > 1:
            yield f"duplicated: {intent.name} has {count} jobs"
        if intent.job_id is None:
            continue
        job = session.get(Job, intent.job_id)
        if job is None:
            yield f"lost: {intent.job_id} was acknowledged and is not there"
            continue
        if job.status not in TERMINAL:
            yield f"lost: {job.id} is {job.status}"
        elif job.status not in intent.may_end:
            yield f"lost: {job.id} is {job.status}: {(job.error or {}).get('message')}"
        if intent.cancelled and job.status != "cancelled":
            yield f"{job.id}: its cancel was acknowledged, and it is {job.status}"
        if job.status == "succeeded":
            yield from _adapter(session, storage, job, intent)


def _adapter(session: Session, storage: Storage, job: Job, intent: Intent) -> Iterator[str]:
    model = session.get(Model, job.fine_tuned_model)
    if model is None:
        yield f"lost: {job.id} succeeded without a model"
        return
    if model.adapter_sha256 != intent.adapter_sha256:
        yield f"{job.id}: its adapter is not that of an undisturbed run"
    for file in model.files:
        try:
            content = b"".join(storage.open(model.file_key(file["path"])))
        except StorageMissing:
            yield f"lost: {job.id} misses {file['path']}"
            continue
        if hashlib.sha256(content).hexdigest() != file["sha256"]:
            yield f"{job.id}: {file['path']} has another hash than its row says"


def _claims(session: Session) -> Iterator[str]:
    for job in session.scalars(select(Job)):
        if job.status == "running" and (job.lease_until or 0) < (session.scalar(select(db_now())) or 0):
            yield f"{job.id} runs without a lease"
        if job.status in TERMINAL and job.lease_until is not None:
            yield f"{job.id} has ended and is still held by {job.worker_id}"
    for snapshot, attempt in session.execute(select(Snapshot, Job.attempt).join(Job, Job.id == Snapshot.job_id)):
        if snapshot.attempt > attempt:
            yield f"{snapshot.job_id}: a snapshot of attempt {snapshot.attempt}, and the job has had {attempt}"


def _events(session: Session) -> Iterator[str]:
    """Numbers without gaps, times that do not go back, every step once and in order, one end."""
    for job in session.scalars(select(Job)):
        events = session.scalars(select(JobEvent).where(JobEvent.job_id == job.id).order_by(JobEvent.seq)).all()
        if [event.seq for event in events] != list(range(1, job.event_seq + 1)):
            yield f"{job.id}: its events have gaps"
        times = [event.created_at for event in events]
        if times != sorted(times):
            yield f"{job.id}: the times of its events go back"
        steps = [event.data["step"] for event in events if event.type == "metrics" and event.data]
        if steps != list(range(1, len(steps) + 1)):
            yield f"{job.id}: steps {steps[:80]}"
        if job.status == "succeeded" and len(steps) != job.total_steps:
            yield f"{job.id}: {len(steps)} of {job.total_steps} steps reported"
        if any("instead of" in event.message for event in events):
            yield f"{job.id}: a repeated step gave another loss"


def _objects(database: Database, storage: Storage) -> Iterator[str]:
    """Every object that a row names, before and after the look at the store: the janitor removes rows, then objects."""
    with database.read() as session:
        before = named_keys(session)
    there = {entry.key for entry in storage.list("")}
    with database.read() as session:
        named = before & named_keys(session)
    for key in named - there:
        if not any(other.startswith(f"{key}/") for other in there):
            yield f"lost: {key} is named and is not in the store"


def _files(session: Session, storage: Storage, rig: Rig) -> Iterator[str]:
    for file_id, content in rig.history.files.items():
        row = session.get(File, file_id)
        if row is None or row.deleted_at:
            if file_id not in rig.history.deleted:
                yield f"lost: {file_id} was acknowledged and is not there"
        elif b"".join(storage.open(row.storage_key)) != content:
            yield f"{file_id} reads back as other bytes"


def _webhooks(session: Session, rig: Rig) -> Iterator[str]:
    """One event for each end, delivered with a signature that the official client verifies."""
    for job in session.scalars(select(Job).where(Job.status.in_(TERMINAL))):
        kind = f"fine_tuning.job.{job.status}"
        ends = session.scalars(
            select(WebhookEvent).where(
                WebhookEvent.object_id == job.id,
                WebhookEvent.type.in_([f"fine_tuning.job.{status}" for status in TERMINAL]),
            )
        ).all()
        if rig.secrets and [event.type for event in ends] != [kind]:
            yield f"{job.id} is {job.status}, and its webhook events are {[event.type for event in ends]}"
    undelivered = (
        select(WebhookDelivery)
        .join(WebhookEndpoint, WebhookEndpoint.id == WebhookDelivery.endpoint_id)
        .where(WebhookDelivery.delivered_at.is_(None), WebhookEndpoint.disabled_at.is_(None))
    )
    for delivery in session.scalars(undelivered):
        yield f"lost: delivery {delivery.id} was not made"
    verify = OpenAI(api_key="none").webhooks.verify_signature
    bodies: dict[str, set[bytes]] = {}
    for received in rig.receiver.received:
        verify(received.body, received.headers, secret=rig.secrets[received.path], tolerance=RUN_S)
        bodies.setdefault(received.headers["webhook-id"], set()).add(received.body)
    for webhook_id, seen in bodies.items():
        if len(seen) > 1:
            yield f"{webhook_id} was sent with different bytes"


def _logs(rig: Rig) -> Iterator[str]:
    for path in sorted(rig.logs.glob("*.log")):
        text = path.read_text(errors="replace")
        for word in BROKEN:
            if word in text:
                yield f"{path.name} holds {word!r}"
        if rig.key in text or (rig.settings.s3_secret_access_key and rig.settings.s3_secret_access_key in text):
            yield f"{path.name} holds a secret"
