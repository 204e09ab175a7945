"""Copy an embedded deployment while it runs, and put the copy back: database, objects, folders of bases, the key.

Objects are never overwritten and a row is written after the objects that it names. So the objects are taken
before the database and once more after it, until the database's copy names none that is missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from core.batches.models import BatchPart
from core.db import Database
from core.durable import make_folder, sync_folder
from core.errors import AttuneError
from core.files.models import Upload, UploadPart, UploadStatus
from core.files.uploads import part_key
from core.models import BaseModelRow, File, Job, Model, Snapshot
from core.settings import Settings
from core.store.objects import STAGING

FORMAT = 1
MANIFEST = "manifest.json"
DATABASE = "attune.db"
OBJECTS = "objects"
BASES = "models"
KEY = "operator-key"
_ROUNDS = 5  # of looking for objects that came or went meanwhile
_BLOCK_BYTES = 1024 * 1024


class CopiedFile(BaseModel):
    """A file of a backup, by its path below the backup's folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What a backup holds; written last, so a folder without one is no backup."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int
    made_at: float  # seconds since the epoch, when the database was copied
    attune: str  # version that made it
    files: list[CopiedFile]


@dataclass(frozen=True)
class Place:
    """Where an embedded deployment keeps what a backup copies."""

    data: Path
    database: Path
    objects: Path
    bases: Path
    key: Path

    @staticmethod
    def of(settings: Settings) -> Place:
        """Raises AttuneError unless database and objects are a file and a folder of this machine."""
        database, storage = urlsplit(settings.resolved_database_url), urlsplit(settings.resolved_storage_url)
        if database.scheme != "sqlite" or storage.scheme != "file":
            raise AttuneError(
                "This deployment keeps its data in Postgres or S3; copy them with their own tools, the database "
                "first and the bucket after it (docs/operations.md, Backup).",
                code="not_embedded",
            )
        return Place(
            settings.data_dir.resolve(),
            Path(settings.resolved_database_url.removeprefix("sqlite:///")),
            Path(unquote(storage.path)),
            settings.resolved_models_dir,
            settings.resolved_operator_key_file,
        )


def named_keys(session: Session) -> set[str]:
    """The key of every object that a row names, and of every folder of objects that one does."""
    keys = set(session.scalars(select(File.storage_key).where(File.deleted_at.is_(None), File.storage_key != "")))
    keys.update(session.scalars(select(Snapshot.storage_key)))
    for log_keys in session.scalars(select(Job.log_keys)):
        keys.update(log_keys)
    for model in session.scalars(select(Model).where(Model.deleted_at.is_(None), Model.storage_prefix != "")):
        keys.add(model.zip_key)
        keys.update(model.file_key(file["path"]) for file in model.files)
    keys.update(prefix for prefix in session.scalars(select(BaseModelRow.light_prefix)) if prefix)
    pending = select(Upload, UploadPart.id).join(UploadPart, UploadPart.upload_id == Upload.id)
    for upload, part_id in session.execute(pending.where(Upload.status == UploadStatus.PENDING)):
        keys.add(part_key(upload, part_id))
    for part in session.scalars(select(BatchPart)):
        keys.update(key for key in (part.output_key, part.error_key) if key)
    return keys


def make(settings: Settings, target: Path) -> Manifest:
    """Copy the deployment to the new folder `target`; the service may run meanwhile.

    Raises AttuneError: not_embedded, nothing_to_back_up, target_exists, backup_restless.
    """
    place = Place.of(settings)
    if not place.database.is_file():
        raise AttuneError(f"There is no database at {place.database}; name the data folder.", code="nothing_to_back_up")
    if target.exists():
        raise AttuneError(f"{target} exists; a backup goes into a new folder.", code="target_exists")
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    make_folder(partial)
    partial.chmod(0o700)
    # links beside the objects keep what is deleted meanwhile, and cost no bytes
    with tempfile.TemporaryDirectory(prefix=".backup-", dir=place.objects.parent) as held:
        made_at, bases = _hold(place, Path(held), partial / DATABASE)
        files = [_entry(partial, DATABASE, _hash(partial / DATABASE))]
        files += _copy_tree(Path(held), partial, OBJECTS)
    for base in bases:
        files += _copy_tree(place.bases / base, partial, f"{BASES}/{base}")
    if place.key.is_file():
        files.append(_copy(place.key, partial, KEY))
    manifest = Manifest(format=FORMAT, made_at=made_at, attune=version("attune"), files=files)
    (partial / MANIFEST).write_text(manifest.model_dump_json(indent=1))
    os.sync()
    partial.rename(target)
    sync_folder(target.parent)
    return manifest


def _hold(place: Place, held: Path, database: Path) -> tuple[float, list[str]]:
    """Copy the database, and link into `held` every object that it names: when that was, and its folder bases."""
    _link_new(place.objects, held)
    missing: set[str] = set()
    for _ in range(_ROUNDS):
        made_at = time.time()
        _copy_database(place.database, database)
        _link_new(place.objects, held)
        copied = Database(f"sqlite:///{database}")
        with copied.read() as session:
            missing = {key for key in named_keys(session) if not (held / key).exists()}
            bases = [
                row.location for row in session.scalars(select(BaseModelRow).where(BaseModelRow.source == "folder"))
            ]
        copied.close()
        _end_log(database)
        if not missing:
            return made_at, [base for base in bases if (place.bases / base).is_dir()]
    raise AttuneError(
        f"{len(missing)} objects that the database names are not in the store, first {min(missing)}; "
        "`attune doctor` tells whether the store is whole.",
        code="backup_restless",
    )


def _copy_database(source: Path, target: Path) -> None:
    """SQLite's own backup, in one step: consistent while others write."""
    target.unlink(missing_ok=True)
    with (
        closing(sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True)) as old,
        closing(sqlite3.connect(target)) as new,
    ):
        old.backup(new)


def _end_log(database: Path) -> None:
    """Fold the write-ahead log into the file, so that one file is the database."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")


def _link_new(source: Path, held: Path) -> None:
    """Give every object that `held` has not a second name there."""
    for path in _files(source):
        if path.relative_to(source).parts[0] == STAGING:
            continue
        other = held / path.relative_to(source)
        if not other.exists():
            other.parent.mkdir(parents=True, exist_ok=True)
            try:
                other.hardlink_to(path)
            except FileNotFoundError:
                continue  # deleted since it was listed


def _files(folder: Path) -> Iterator[Path]:
    for root, _, names in os.walk(folder):
        yield from (Path(root) / name for name in sorted(names))


def _copy_tree(source: Path, target: Path, name: str) -> list[CopiedFile]:
    return [_copy(path, target, f"{name}/{path.relative_to(source).as_posix()}") for path in _files(source)]


def _copy(source: Path, target: Path, name: str) -> CopiedFile:
    """Copy a file to `target`/`name` with its mode; returns what was written."""
    written = target / name
    written.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with source.open("rb") as reader, written.open("xb") as writer:
        while block := reader.read(_BLOCK_BYTES):
            digest.update(block)
            writer.write(block)
    shutil.copymode(source, written)
    return _entry(target, name, digest.hexdigest())


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _entry(folder: Path, name: str, sha256: str) -> CopiedFile:
    return CopiedFile(path=name, bytes=(folder / name).stat().st_size, sha256=sha256)


def restore(settings: Settings, backup: Path) -> Manifest:
    """Put a backup into the empty places that `settings` names; a service started there goes on from it.

    Raises AttuneError: not_embedded, not_a_backup, backup_damaged, target_not_empty.
    """
    place = Place.of(settings)
    manifest = _read_manifest(backup)
    for taken in (place.database, place.objects):
        if taken.is_file() or (taken.is_dir() and any(taken.iterdir())):
            raise AttuneError(
                f"{taken} is not empty; restore into a new data folder (--data), or move it away.",
                code="target_not_empty",
            )
    targets = {DATABASE: place.database, KEY: place.key}
    for file in manifest.files:
        head, _, rest = file.path.partition("/")
        folder = {OBJECTS: place.objects, BASES: place.bases}.get(head)
        target = folder / rest if folder else targets[file.path]
        make_folder(target.parent)
        target.unlink(missing_ok=True)  # a base or a key that was there before
        copied = _copy(backup / file.path, target.parent, target.name)
        if (copied.bytes, copied.sha256) != (file.bytes, file.sha256):
            raise AttuneError(
                f"{backup / file.path} is not what was backed up; take another backup.", code="backup_damaged"
            )
    os.sync()
    return manifest


def _read_manifest(backup: Path) -> Manifest:
    try:
        manifest = Manifest.model_validate_json((backup / MANIFEST).read_bytes())
    except (OSError, ValidationError) as error:
        raise AttuneError(f"{backup} is no backup: it has no valid {MANIFEST}.", code="not_a_backup") from error
    if manifest.format != FORMAT:
        raise AttuneError(
            f"{backup} was made by Attune {manifest.attune} in a newer form; restore it with that version.",
            code="not_a_backup",
        )
    known = {DATABASE, KEY}
    for file in manifest.files:
        path = Path(file.path)
        inside = path.parts[0] in (OBJECTS, BASES) and ".." not in path.parts
        if not (file.path in known or inside):
            raise AttuneError(f"{backup} is no backup: it names {json.dumps(file.path)}.", code="not_a_backup")
        if not (backup / path).is_file():
            raise AttuneError(f"{backup / path} is missing; take another backup.", code="backup_damaged")
    return manifest
