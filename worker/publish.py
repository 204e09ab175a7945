"""Bring an adapter folder into storage, as single files and as one zip; and a snapshot as one archive.

Keys hold the attempt and objects are never overwritten; nothing is visible until a fenced row names it.
"""

from __future__ import annotations

import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from core.models import model_file_key
from core.store.storage import Storage, Stored

WEIGHTS_FILES = ("adapter_model.safetensors", "model.safetensors")
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # equal runs give equal archives


@dataclass(frozen=True)
class Published:
    """Where an adapter lies in storage."""

    prefix: str
    files: list[dict[str, str | int]]  # path, bytes, sha256; sorted by path
    zip_key: str
    zip: Stored

    @property
    def adapter_sha256(self) -> str:
        """Of the weights: an adapter's, or a whole model's."""
        return next(str(file["sha256"]) for file in self.files if str(file["path"]) in WEIGHTS_FILES)


def publish_adapter(storage: Storage, folder: Path, prefix: str, archive: Path) -> Published:
    """Upload every file of `folder` below `prefix`, and all of them as `adapter.zip` (built at `archive`)."""
    files: list[dict[str, str | int]] = []
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as bundle:
        for path in paths:
            name = path.relative_to(folder).as_posix()
            stored = storage.put_file(model_file_key(prefix, name), path)
            files.append({"path": name, "bytes": stored.bytes, "sha256": stored.sha256})
            with (
                bundle.open(zipfile.ZipInfo(name, _ZIP_DATE), "w", force_zip64=True) as entry,
                path.open("rb") as source,
            ):
                while block := source.read(1 << 20):
                    entry.write(block)
    zip_key = f"{prefix}/adapter.zip"
    zipped = storage.put_file(zip_key, archive)
    archive.unlink()
    return Published(prefix, files, zip_key, zipped)


def fetch_adapter(storage: Storage, prefix: str, files: list[dict[str, str | int]], folder: Path) -> None:
    """Bring a published adapter back, every file checked against its hash."""
    for file in files:
        target = folder / str(file["path"])
        target.parent.mkdir(parents=True, exist_ok=True)
        storage.fetch(model_file_key(prefix, str(file["path"])), target, str(file["sha256"]))


def store_snapshot(storage: Storage, folder: Path, key: str, archive: Path) -> Stored:
    """Upload a snapshot folder as one tar (built at `archive`)."""
    try:
        with tarfile.open(archive, "w") as bundle:
            bundle.add(folder, arcname=folder.name)
        return storage.put_file(key, archive)
    finally:
        archive.unlink(missing_ok=True)


def fetch_snapshot(storage: Storage, key: str, sha256: str, folder: Path, archive: Path) -> None:
    """Unpack a stored snapshot below `folder`. Raises StorageCorrupt or StorageMissing."""
    folder.mkdir(parents=True, exist_ok=True)
    storage.fetch(key, archive, sha256)
    with tarfile.open(archive) as bundle:
        bundle.extractall(folder, filter="data")
    archive.unlink()
