"""Snapshots: the private state a run resumes from, bit for bit.

A snapshot is a folder of safetensors and JSON whose manifest, written last, holds every file's hash; it is made
under a temporary name, fsynced and renamed. One that does not verify, or is of another task or other data, is
passed over with a reason.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from core.protocol import TrainTask
from core.spec import Execution, Frozen
from worker.engine.early_stopping import Best
from worker.engine.publish import published, write_bytes
from worker.engine.watch import Watched

MANIFEST = "manifest.json"
TENSOR_FILES = ("adapter", "optimizer", "random", "best")


class Progress(Frozen):
    """Where a run stands after an optimizer step, with the sums that its reports are made of."""

    step: int = 0
    trained_tokens: int = 0
    epoch_nll: float = 0.0  # summed over what the loss is a mean of in the current epoch
    epoch_supervised: int = 0  # supervised tokens, or preference pairs
    watched: Watched = Watched()
    best: Best | None = None  # of a run that may stop early; its weights are in a file of their own


class FileEntry(Frozen):
    sha256: str
    bytes: int


class Manifest(Frozen):
    format: int = 1
    attempt: int
    progress: Progress
    task_sha256: str
    data_sha256: str
    execution: Execution
    device: str
    processes: int = 1
    versions: dict[str, str]
    files: dict[str, FileEntry]


@dataclass(frozen=True)
class Snapshot:
    """A snapshot read back and verified."""

    folder: Path
    manifest: Manifest
    adapter: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    random: dict[str, Tensor]
    best: dict[str, Tensor]  # empty but for a run that may stop early


@dataclass(frozen=True)
class Refused:
    """A folder that is not resumed from, and why."""

    folder: Path
    reason: str


@dataclass(frozen=True)
class Identity:
    """What must agree for a resumed run to be the uninterrupted one."""

    task_sha256: str
    data_sha256: str


def library_versions() -> dict[str, str]:
    names = ("torch", "transformers", "bitsandbytes", "safetensors", "tokenizers")
    return {name: importlib.metadata.version(name) for name in names}


def task_sha256(task: TrainTask) -> str:
    """Hash of what determines the run; not of the attempt, the machine or the places of its files."""
    parts = {
        "base_model": task.base_model,
        "base_revision": task.base_revision,
        "resolved": task.resolved.model_dump(mode="json"),
        "seed": task.seed,
        "template_date": task.template_date,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def save_snapshot(
    root: Path,
    *,
    attempt: int,
    progress: Progress,
    identity: Identity,
    execution: Execution,
    device: str,
    processes: int,
    adapter: dict[str, Tensor],
    optimizer: dict[str, Tensor],
    random: dict[str, Tensor],
    best: dict[str, Tensor],
) -> tuple[Path, str]:
    """Write a snapshot below `root`; its folder and the hash of its manifest."""
    blobs = {
        f"{name}.safetensors": save({key: value.cpu().contiguous() for key, value in tensors.items()})
        for name, tensors in zip(TENSOR_FILES, (adapter, optimizer, random, best), strict=True)
    }
    manifest = Manifest(
        attempt=attempt,
        progress=progress,
        task_sha256=identity.task_sha256,
        data_sha256=identity.data_sha256,
        execution=execution,
        device=device,
        processes=processes,
        versions=library_versions(),
        files={
            name: FileEntry(sha256=hashlib.sha256(blob).hexdigest(), bytes=len(blob)) for name, blob in blobs.items()
        },
    )
    text = manifest.model_dump_json(indent=1).encode()
    folder = root / f"step-{progress.step:08d}-attempt-{attempt}"
    with published(folder) as partial:
        for name, blob in blobs.items():
            write_bytes(partial / name, blob)
        write_bytes(partial / MANIFEST, text)
    return folder, hashlib.sha256(text).hexdigest()


def prune(root: Path, keep: int) -> None:
    """Remove all but the newest `keep` snapshots, and what was left half-written."""
    for folder in _newest_first(root)[max(keep, 1) :]:
        shutil.rmtree(folder)
    for partial in root.glob(".*.partial"):
        shutil.rmtree(partial)


def _newest_first(root: Path) -> list[Path]:
    """By step, then attempt, as the names say; both are padded or small, and compared as numbers."""
    found: list[tuple[int, int, Path]] = []
    for folder in root.glob("step-*-attempt-*"):
        _, step, _, attempt = folder.name.split("-", 3)
        if step.isdigit() and attempt.isdigit():
            found.append((int(step), int(attempt), folder))
    return [folder for _, _, folder in sorted(found, reverse=True)]


def candidates(root: Path, identity: Identity, execution: Execution | None) -> Iterator[Snapshot | Refused]:
    """Newest first: the snapshots that fit, and the reasons of those that do not. Take the first that fits."""
    for folder in _newest_first(root):
        try:
            snapshot = _read(folder)
        except (OSError, ValueError, ValidationError, SafetensorError) as error:
            yield Refused(folder, f"it does not verify: {error}")
            continue
        if snapshot.manifest.task_sha256 != identity.task_sha256:
            yield Refused(folder, "it is of another task")
        elif snapshot.manifest.data_sha256 != identity.data_sha256:
            yield Refused(folder, "it was made with other training data")
        elif execution is not None and not _continues(snapshot.manifest.execution, execution):
            yield Refused(folder, "it was made with another precision, packing budget or number of threads")
        else:
            yield snapshot


def _continues(made: Execution, now: Execution) -> bool:
    """The same but for rungs of the ladder: an attempt since then went down it for lack of memory."""
    rungs = {"micro_tokens": now.micro_tokens, "checkpointing": now.checkpointing, "dequantised": now.dequantised}
    same = made.model_copy(update=rungs)
    return same == now and made.micro_tokens >= now.micro_tokens


def _read(folder: Path) -> Snapshot:
    manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    if manifest.format != 1:
        raise ValueError(f"its format is {manifest.format}")
    tensors: list[dict[str, Tensor]] = []
    for name in TENSOR_FILES:
        entry = manifest.files.get(f"{name}.safetensors", None)
        blob = (folder / f"{name}.safetensors").read_bytes()
        if entry is None or hashlib.sha256(blob).hexdigest() != entry.sha256:
            raise ValueError(f"{name}.safetensors has another hash than its manifest says")
        tensors.append(load(blob))
    return Snapshot(folder, manifest, *tensors)
