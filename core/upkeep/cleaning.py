"""What the janitor removes: objects that no row names any more, expired and deleted files, dead rows.

Each function takes the rows in one short transaction, removes objects after it, and marks what is done.
"""

from __future__ import annotations

from sqlalchemy import delete, exists, func, or_, select, update

from core.batches.models import ENDED, Batch, BatchPart
from core.db import Database, db_now
from core.files.models import Upload, UploadPart, UploadStatus
from core.files.uploads import is_over, parts_prefix
from core.models import TERMINAL, AuditEntry, File, Job, Model, Project, Snapshot
from core.store.storage import Storage

BATCH = 50
AUDIT_BATCH = 5000
DAY_S = 24 * 3600.0


def sweep_finished_jobs(database: Database, storage: Storage, older_than_s: float) -> int:
    """Remove snapshots and unnamed objects of jobs that ended `older_than_s` ago; returns how many jobs.

    The wait lets an attempt that has lost its lease, and does not know it yet, finish its last upload.
    """
    with database.begin() as session:
        ended = session.scalars(
            select(Job)
            .where(Job.status.in_(TERMINAL), Job.swept_at.is_(None), Job.finished_at < db_now() - older_than_s)
            .limit(BATCH)
        ).all()
        for job in ended:
            session.execute(delete(Snapshot).where(Snapshot.job_id == job.id))
    for job in ended:
        _sweep(database, storage, job)
    return len(ended)


def _sweep(database: Database, storage: Storage, job: Job) -> None:
    prefix = f"projects/{job.project_id}/jobs/{job.id}"
    with database.read() as session:
        models = session.scalars(select(Model).where(Model.job_id == job.id, Model.deleted_at.is_(None))).all()
        results = session.scalars(
            select(File.storage_key).where(File.id.in_(job.result_files), File.deleted_at.is_(None))
        ).all()
    named = {*results, *job.log_keys}
    kept = tuple(f"{model.storage_prefix}/" for model in models)
    for entry in list(storage.list(prefix)):
        if entry.key not in named and not entry.key.startswith(kept):
            storage.delete(entry.key)
    with database.begin() as session:
        session.execute(update(Job).where(Job.id == job.id).values(swept_at=db_now()))


def sweep_ended_batches(database: Database, storage: Storage, older_than_s: float) -> int:
    """Remove the parts and unnamed objects of batches that ended `older_than_s` ago; returns how many batches."""
    ended_at = func.coalesce(Batch.completed_at, Batch.failed_at, Batch.expired_at, Batch.cancelled_at)
    over = (Batch.status.in_(ENDED), Batch.swept_at.is_(None), ended_at < db_now() - older_than_s)
    with database.begin() as session:
        ended = session.scalars(select(Batch).where(*over).limit(BATCH)).all()
        for batch in ended:
            session.execute(delete(BatchPart).where(BatchPart.batch_id == batch.id))
    for batch in ended:
        its_files = [file_id for file_id in (batch.output_file_id, batch.error_file_id) if file_id is not None]
        with database.read() as session:
            named = set(session.scalars(select(File.storage_key).where(File.id.in_(its_files))))
        for entry in list(storage.list(f"projects/{batch.project_id}/batches/{batch.id}")):
            if entry.key not in named:
                storage.delete(entry.key)
        with database.begin() as session:
            session.execute(update(Batch).where(Batch.id == batch.id).values(swept_at=db_now()))
    return len(ended)


def remove_files(database: Database, storage: Storage) -> int:
    """Delete expired files, and the bytes of files that were deleted; returns how many."""
    with database.begin() as session:
        session.execute(
            update(File)
            .where(
                File.deleted_at.is_(None),
                File.expires_at.is_not(None),
                File.expires_at < db_now(),
                # a file that an unfinished job or batch needs is kept until that has ended
                ~exists().where(Batch.status.not_in(ENDED), Batch.input_file_id == File.id),
                ~exists().where(
                    Job.status.not_in(TERMINAL), or_(Job.training_file == File.id, Job.validation_file == File.id)
                ),
            )
            .values(deleted_at=db_now())
        )
        gone = session.scalars(
            select(File).where(File.deleted_at.is_not(None), File.storage_key != "").limit(BATCH)
        ).all()
    for file in gone:
        storage.delete(file.storage_key)
        with database.begin() as session:
            session.execute(update(File).where(File.id == file.id).values(storage_key=""))
    return len(gone)


def remove_models(database: Database, storage: Storage) -> int:
    """Delete the objects of deleted models and of checkpoints that retention ended; returns how many."""
    with database.begin() as session:
        gone = session.scalars(
            select(Model).where(Model.deleted_at.is_not(None), Model.storage_prefix != "").limit(BATCH)
        ).all()
    for model in gone:
        storage.delete_prefix(model.storage_prefix)
        with database.begin() as session:
            session.execute(update(Model).where(Model.id == model.id).values(storage_prefix=""))
    return len(gone)


def remove_uploads(database: Database, storage: Storage) -> int:
    """Expire uploads that were not completed in time, and delete the parts of all that are done; returns how many."""
    with database.begin() as session:
        session.execute(
            update(Upload).where(Upload.status == UploadStatus.PENDING, is_over()).values(status=UploadStatus.EXPIRED)
        )
        done = session.scalars(
            select(Upload).where(Upload.status != UploadStatus.PENDING, Upload.swept_at.is_(None)).limit(BATCH)
        ).all()
    for upload in done:
        storage.delete_prefix(parts_prefix(upload.project_id, upload.id))
        with database.begin() as session:
            session.execute(delete(UploadPart).where(UploadPart.upload_id == upload.id))
            session.execute(update(Upload).where(Upload.id == upload.id).values(swept_at=db_now()))
    return len(done)


def forget_audited(database: Database, keep_days: int) -> int:
    """Remove what was logged more than `keep_days` ago; returns how many rows."""
    old = (
        select(AuditEntry.id)
        .where(AuditEntry.created_at < db_now() - keep_days * DAY_S)
        .order_by(AuditEntry.created_at)
        .limit(AUDIT_BATCH)
    )
    with database.begin() as session:
        removed = session.execute(delete(AuditEntry).where(AuditEntry.id.in_(old)).returning(AuditEntry.id))
        return len(removed.all())


def sweep_unnamed_uploads(database: Database, storage: Storage, older_than_s: float) -> int:
    """Remove what came in and no row names: a web process was killed between the bytes and the row. How many.

    No upload lives as long as a day, so parts of that age belong to none.
    """
    with database.read() as session:
        now = session.scalar(select(db_now())) or 0.0
        projects = session.scalars(select(Project.id)).all()
    removed = 0
    for project_id in projects:
        old = [
            entry.key
            for entry in storage.list(f"projects/{project_id}/files")
            if entry.modified.timestamp() < now - older_than_s
        ]
        parts = [
            entry.key
            for entry in storage.list(f"projects/{project_id}/uploads")
            if entry.modified.timestamp() < now - older_than_s
        ]
        for key in parts:
            storage.delete(key)
        removed += len(parts)
        for start in range(0, len(old), BATCH):
            batch = old[start : start + BATCH]
            with database.read() as session:
                named = set(session.scalars(select(File.storage_key).where(File.storage_key.in_(batch))))
            for key in batch:
                if key not in named:
                    storage.delete(key)
                    removed += 1
    return removed
