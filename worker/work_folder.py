"""Fill an attempt's work folder: data, base, the adapter to start from, the newest snapshot, the task."""

from __future__ import annotations

from core.bases import catalog
from core.protocol import TrainTask
from core.spec import Execution
from core.store.storage import StorageCorrupt, StorageMissing
from worker.attempt import Attempt, LeftEarly
from worker.publish import fetch_adapter, fetch_snapshot


def fill(attempt: Attempt, device: str) -> None:
    """Raises LeftEarly when the job was called off meanwhile, and what catalog and storage raise."""
    job, inputs, folder, storage = attempt.job, attempt.inputs, attempt.folder, attempt.storage
    folder.root.mkdir(parents=True)
    base_folder = catalog.weights_folder(attempt.place.settings, inputs.base, _Download(attempt).heed)
    storage.fetch(inputs.training.storage_key, folder.training, inputs.training.sha256)
    if inputs.validation is not None:
        storage.fetch(inputs.validation.storage_key, folder.validation, inputs.validation.sha256)
    if inputs.start_model is not None:
        fetch_adapter(storage, inputs.start_model.storage_prefix, inputs.start_model.files, folder.start_adapter)
    _fetch_newest_snapshot(attempt)
    task = TrainTask(
        job_id=job.id,
        attempt=attempt.claim.attempt,
        base_model=job.base_model,
        base_revision=inputs.base.revision,
        base_folder=str(base_folder),
        resolved=attempt.resolved,
        seed=job.seed,
        execution=Execution.model_validate(job.execution) if job.execution else None,
        template_date=job.template_date or "",
        snapshot_interval_s=attempt.place.settings.snapshot_interval_s,
        keep_snapshots=attempt.place.settings.keep_snapshots,
        device=device,
        memory_bytes=attempt.place.settings.worker_memory_bytes or None,
    )
    folder.task.write_text(task.model_dump_json(indent=2))


class _Download:
    """A base may take long to arrive: say so once, and let go when the job is not wanted any more."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._told = False

    def heed(self, done_bytes: int, total_bytes: int) -> None:
        if not self._told:
            self._told = True
            self._attempt.tell(f"Fetching the base model to this worker ({total_bytes / 1e9:.1f} GB)")
        if self._attempt.left():
            raise LeftEarly


def _fetch_newest_snapshot(attempt: Attempt) -> None:
    """The newest that is whole; the engine checks its manifest once more."""
    for row in attempt.inputs.snapshots:
        try:
            fetch_snapshot(
                attempt.storage, row.storage_key, row.sha256, attempt.folder.snapshots, attempt.scratch("snapshot.tar")
            )
        except (StorageCorrupt, StorageMissing) as error:
            attempt.tell(f"The snapshot of step {row.step} cannot be used ({error}); trying an older one", level="warn")
            continue
        return
