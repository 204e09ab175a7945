"""What the engine has made, brought to where users see it: snapshots, checkpoints, and the proven final model."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

from core import crash_points, ids
from core.db import Session
from core.errors import AttuneError, Unavailable
from core.jobs import claims, job_files
from core.jobs.jobs import NewEvent
from core.models import Checkpoint, File, Model, Snapshot
from core.protocol import CheckpointSaved, Failed, FinalReport, Message, Proof, Prove, SnapshotSaved, Trained
from core.spec import Method
from worker.attempt import Attempt
from worker.engine_process import EngineDied, EngineProcess
from worker.publish import Published, fetch_adapter, publish_adapter, store_snapshot
from worker.tracking import Tracking

PROOF_TIMEOUT_S = 1800.0
SHOWN_CHARACTERS = 200  # of a sample, in an event's message; its data hold all


def keep_snapshot(attempt: Attempt, report: SnapshotSaved) -> None:
    """Store a snapshot and name it. A store that is away is asked again with the next one: training goes on.
    Raises OSError when this worker's disk has no room for its archive."""
    key = f"{attempt.prefix}/snapshots/step-{report.step}.tar"
    try:
        stored = store_snapshot(attempt.storage, Path(report.folder), key, attempt.scratch("snapshot.tar"))
    except FileNotFoundError:
        return  # the engine has already replaced it by a newer one, whose report follows
    except Unavailable as error:
        attempt.tell(f"The snapshot of step {report.step} could not be stored: {error.message}", level="warn")
        return
    crash_points.here("snapshot.stored")
    row = Snapshot(
        job_id=attempt.job.id,
        step=report.step,
        attempt=attempt.claim.attempt,
        storage_key=key,
        bytes=stored.bytes,
        sha256=stored.sha256,
    )
    superfluous: list[str] = []

    def name(session: Session) -> claims.Flags | None:
        outcome = claims.add_snapshot(session, attempt.claim, row, attempt.place.settings.keep_snapshots)
        superfluous.extend(outcome[1] if outcome else [])
        return outcome and outcome[0]

    attempt.write(name)
    crash_points.here("snapshot.named")
    for old in superfluous:
        attempt.patiently(lambda key=old: attempt.storage.delete(key))


def publish_checkpoint(attempt: Attempt, report: CheckpointSaved, template_hash: str) -> None:
    """Make a checkpoint usable as a model, unless an attempt that was lost later has done it already."""
    with attempt.place.database.read() as session:
        if claims.has_checkpoint(session, attempt.job.id, report.step):
            return
    model_id = f"{_final_model_id(attempt)}:ckpt-step-{report.step}"
    published = _publish(attempt, Path(report.folder), f"step-{report.step}")
    crash_points.here("checkpoint.stored")
    model = _model_row(attempt, model_id, published, template_hash, step=report.step, is_checkpoint=True)
    checkpoint = _checkpoint_row(attempt, model_id, report)
    keep = attempt.place.settings.keep_checkpoints
    samples = _sample_events(report)
    attempt.write(lambda session: claims.add_checkpoint(session, attempt.claim, model, checkpoint, keep, samples))
    crash_points.here("checkpoint.named")


def publish_final(
    attempt: Attempt, report: Trained, template_hash: str, engine: EngineProcess, tracking: Tracking
) -> None:
    """Publish, read the published bytes back, prove them in the serving path, and only then succeed."""
    attempt.scratch("trained.json").write_text(report.model_dump_json())
    published = _publish(attempt, Path(report.folder), "final")
    crash_points.here("final.stored")
    attempt.patiently(
        lambda: fetch_adapter(attempt.storage, published.prefix, published.files, attempt.folder.published)
    )
    proof = _prove(attempt, engine)
    if not proof.passed:
        failed = [f"{check.name}: {check.detail}" for check in proof.checks if not check.passed]
        attempt.fail(
            "proof_failed",
            "The trained adapter did not pass its proof, so it was not published: " + "; ".join(failed),
        )
        return
    crash_points.here("final.proved")
    model_id = _final_model_id(attempt)
    model = _model_row(attempt, model_id, published, template_hash, step=report.metrics.step, is_checkpoint=False)
    model.proof = proof.model_dump(mode="json")
    checkpoint = _checkpoint_row(attempt, model_id, report.metrics)
    results = [_metrics_file(attempt), *tracking.result_files()]
    final, samples = _final_report(attempt, report, proof), _sample_events(report.metrics)
    attempt.end(
        lambda session: claims.succeed(
            session,
            attempt.claim,
            model,
            checkpoint,
            results,
            report.trained_tokens,
            final=final,
            samples=samples,
            integrations=tracking.integrations,
        )
    )


def _final_report(attempt: Attempt, report: Trained, proof: Proof) -> FinalReport:
    loss = report.metrics.full_valid_loss
    is_likelihood = attempt.resolved.method is Method.SUPERVISED
    return FinalReport(
        step=report.metrics.step,
        steps=report.steps,
        stopped_early=report.stopped_early,
        validation_loss=loss,
        validation_perplexity=math.exp(loss) if loss is not None and is_likelihood else None,
        perplexities=proof.perplexities,
    )


def _sample_events(report: CheckpointSaved) -> list[NewEvent]:
    """One event a sample prompt, with what its checkpoint answers."""
    events: list[NewEvent] = []
    for sample in report.samples:
        shown = sample.model_dump(mode="json")
        asked = sample.prompt if isinstance(sample.prompt, str) else sample.prompt[-1].content
        text = f"Sample at step {report.step}: {json.dumps(_short(asked), ensure_ascii=False)} is answered with "
        text += json.dumps(_short(sample.answer), ensure_ascii=False)
        events.append(NewEvent(text, data={"step": report.step, **shown}))
    return events


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"


def _publish(attempt: Attempt, folder: Path, name: str) -> Published:
    return attempt.patiently(
        lambda: publish_adapter(attempt.storage, folder, f"{attempt.prefix}/{name}", attempt.scratch("adapter.zip"))
    )


def _prove(attempt: Attempt, engine: EngineProcess) -> Proof:
    engine.send(Prove(folder=str(attempt.folder.root)))
    asked_at = time.monotonic()
    while time.monotonic() - asked_at < PROOF_TIMEOUT_S:
        report = engine.read(0.5)
        attempt.must_hold()
        if isinstance(report, Proof):
            return report
        if isinstance(report, Failed) and report.kind == "out_of_memory":
            engine.kill()
            raise AttuneError(report.message, code=report.code)
        if isinstance(report, Failed):
            raise EngineDied(f"the proof could not be made: {report.message}")
        if isinstance(report, Message):
            attempt.tell(report.message, level=report.level, **report.data)
    engine.kill()
    raise EngineDied(f"the proof took longer than {PROOF_TIMEOUT_S:.0f} s")


def _final_model_id(attempt: Attempt) -> str:
    """Made from the job's own id, so that every attempt and every checkpoint uses the same."""
    job = attempt.job
    return ids.model_id(job.base_model, attempt.inputs.organization, job.suffix, job.id[-8:])


def _model_row(
    attempt: Attempt, model_id: str, published: Published, template_hash: str, *, step: int, is_checkpoint: bool
) -> Model:
    return Model(
        id=model_id,
        project_id=attempt.job.project_id,
        job_id=attempt.job.id,
        base_model=attempt.job.base_model,
        base_revision=attempt.inputs.base.revision,
        quantization=attempt.resolved.quantization,
        is_checkpoint=is_checkpoint,
        step=step,
        storage_prefix=published.prefix,
        files=published.files,
        zip_key=published.zip_key,
        zip_bytes=published.zip.bytes,
        zip_sha256=published.zip.sha256,
        adapter_sha256=published.adapter_sha256,
        template_hash=template_hash,
    )


def _checkpoint_row(attempt: Attempt, model_id: str, report: CheckpointSaved) -> Checkpoint:
    return Checkpoint(
        id=ids.checkpoint_id(),
        job_id=attempt.job.id,
        model_id=model_id,
        step=report.step,
        metrics=report.model_dump(exclude={"report", "folder", "samples"}),
    )


def _metrics_file(attempt: Attempt) -> File:
    """OpenAI's metrics table, one line a step."""
    with attempt.place.database.read() as session:
        table = job_files.metrics_csv(session, attempt.job.id)
    file_id = ids.file_id()
    key = f"{attempt.prefix}/results/{file_id}.csv"
    stored = attempt.patiently(lambda: attempt.storage.put_bytes(key, table))
    return File(
        id=file_id,
        project_id=attempt.job.project_id,
        filename=f"{attempt.job.id}-metrics.csv",
        purpose="fine-tune-results",
        bytes=stored.bytes,
        sha256=stored.sha256,
        storage_key=key,
        status="processed",
    )
