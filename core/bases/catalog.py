"""The catalog of base models: which there are, how one becomes ready, and where its files are on this machine.

A row is pinned to a commit (or a folder's content) with a hash for each file. Tokenizer and configuration lie in
storage for every web machine; weights are downloaded by the worker that first needs them.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import structlog
from pydantic import TypeAdapter
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from core import ids
from core.bases.files import (
    LIGHT_FILES,
    Described,
    FileRecord,
    describe_folder,
    resolve_folder,
)
from core.bases.hub import Hub, Progress
from core.bases.verified import Verdicts
from core.db import Database, db_now
from core.durable import make_folder
from core.errors import AttuneError, NotFound, Unavailable
from core.models import BaseModelRow
from core.rendering.render import Renderer
from core.settings import Settings
from core.spec import Frozen
from core.store.storage import Storage

DEMO_BASE = "attune-demo"
TEMPLATE_DATE = "2000-01-01"  # a row's template hash is taken at one date, so that equal templates agree
log = structlog.get_logger()


class Shipped(Frozen):
    """An entry of the list that comes with the product. `parameters` as published; exact once prepared."""

    id: str
    parameters: int
    licence: str
    context_tokens: int
    gated: bool
    description: str


@dataclass(frozen=True)
class Prepared:
    described: Described
    light_prefix: str
    template_hash: str


@cache
def shipped() -> tuple[Shipped, ...]:
    content = Path(__file__).with_name("catalog.json").read_bytes()
    return TypeAdapter(tuple[Shipped, ...]).validate_json(content)


# Rows


def register(session: Session, settings: Settings) -> None:
    """At start: a row for each shipped entry that has none, and for the demo base where its folder stands."""
    known = set(session.scalars(select(BaseModelRow.id)))
    for entry in shipped():
        if entry.id not in known:
            row = BaseModelRow(
                id=entry.id,
                source="hub",
                location=entry.id,
                revision="",
                status="available",
                licence=entry.licence,
                parameters=entry.parameters,
                context_tokens=entry.context_tokens,
                gated=entry.gated,
                description=entry.description,
            )
            _insert(session, row)
    register_folders(session, settings)


def register_folders(session: Session, settings: Settings) -> None:
    """The demo base, when it is new or was built anew. Other folders are added by an operator."""
    models_dir = settings.resolved_models_dir
    if not (models_dir / DEMO_BASE).is_dir():
        return
    row = session.get(BaseModelRow, DEMO_BASE)
    if row is None:
        description = "The demo's own tiny model; shows the way from file to adapter on any machine."
        _insert(session, _new_row(DEMO_BASE, "folder", DEMO_BASE, "", description))
    elif row.removed_at is None and row.revision != _revision_of_folder(models_dir, DEMO_BASE):
        row.revision, row.status = "", "preparing"


def _revision_of_folder(models_dir: Path, name: str) -> str | None:
    try:
        return describe_folder(models_dir, name).revision
    except AttuneError:
        return None  # preparation says what is wrong with it


def add(
    session: Session,
    location: str,
    *,
    source: Literal["hub", "folder"] = "hub",
    revision: str | None = None,
    id: str | None = None,
) -> BaseModelRow:
    """Put a base into the catalog, status `preparing`; the preparation child does the rest.

    `location` is a hub's repository id, or the name of a folder directly below the models directory; it is
    the entry's id unless one is given. An entry that is ready is pinned, and refused here.
    """
    identifier = id or location
    if ids.slug(identifier) == "" or len(identifier) > 200 or not identifier.isascii() or not identifier.isprintable():
        raise AttuneError(f"{identifier[:200]!r} cannot name a base model.", code="invalid_model_id", param="id")
    row = session.get(BaseModelRow, identifier)
    if row is None:
        row = _new_row(identifier, source, location, revision or "", None)
        session.add(row)
    elif row.removed_at is None and row.status == "ready":
        message = (
            f"{identifier} is in the catalog already, pinned to revision {row.revision[:12]}. "
            "Add another revision under another id."
        )
        raise AttuneError(message, code="base_model_exists", param="id")
    else:
        # without a revision, an entry that was removed comes back as it was pinned
        row.revision = revision or (row.revision if (row.source, row.location) == (source, location) else "")
        row.source, row.location = source, location
        row.status, row.error, row.removed_at = "preparing", None, None
    session.flush()
    return row


def look(session: Session, id: str) -> BaseModelRow | None:
    """The entry of that id, if there is one that was not removed."""
    row = session.get(BaseModelRow, id)
    return row if row is not None and row.removed_at is None else None


def find(session: Session, id: str) -> BaseModelRow:
    """The entry of that id. Raises NotFound, with OpenAI's words."""
    row = look(session, id)
    if row is None:
        raise NotFound(f"The model '{id[:200]}' does not exist", code="model_not_found", param="model")
    return row


def list_usable(session: Session) -> list[BaseModelRow]:
    """What a job may name: ready entries, and those that become ready at first use."""
    usable = ("ready", "available", "preparing")
    query = select(BaseModelRow).where(BaseModelRow.removed_at.is_(None), BaseModelRow.status.in_(usable))
    return list(session.scalars(query.order_by(BaseModelRow.id)))


def list_all(session: Session) -> list[BaseModelRow]:
    """Every entry that was not removed, those in error included."""
    return list(
        session.scalars(select(BaseModelRow).where(BaseModelRow.removed_at.is_(None)).order_by(BaseModelRow.id))
    )


def remove(session: Session, id: str) -> None:
    """Take an entry out of the catalog; what was trained on it stays. Raises NotFound."""
    find(session, id)
    session.execute(update(BaseModelRow).where(BaseModelRow.id == id).values(removed_at=db_now()))


def _new_row(id: str, source: str, location: str, revision: str, description: str | None) -> BaseModelRow:
    return BaseModelRow(
        id=id, source=source, location=location, revision=revision, status="preparing", description=description
    )


def _insert(session: Session, row: BaseModelRow) -> None:
    """Another web process may register at the same moment; its row is as good."""
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError:
        pass


# Preparation (in the torch-free child)


def prepare_waiting(database: Database, storage: Storage, settings: Settings) -> None:
    """Make every entry ready that waits for it; a failure is kept in its row."""
    query = select(BaseModelRow).where(BaseModelRow.status == "preparing", BaseModelRow.removed_at.is_(None))
    with database.read() as session:
        waiting = list(session.scalars(query))
    for row in waiting:
        try:
            make_ready(database, storage, settings, row)
        except AttuneError as error:
            if not _is_about_the_base(error):
                raise
            log.warning("base_model_refused", id=row.id, code=error.code, error=error.message)


def make_ready(database: Database, storage: Storage, settings: Settings, base: BaseModelRow) -> BaseModelRow:
    """Prepare `base` and return its row as it then is. Raises AttuneError, which the row keeps as well."""
    try:
        prepared = prepare(storage, settings, base)
    except AttuneError as error:
        if _is_about_the_base(error):
            again = any(entry.id == base.id for entry in shipped())
            with database.begin() as session:
                session.execute(
                    update(BaseModelRow)
                    .where(BaseModelRow.id == base.id, BaseModelRow.status != "ready")
                    .values(status="available" if again else "error", error=error.message)
                )
        raise
    described = prepared.described
    with database.begin() as session:
        row = session.get_one(BaseModelRow, base.id)
        row.location = described.location
        row.revision = described.revision
        row.status = "ready"
        row.error = None
        row.licence = described.licence or row.licence
        row.parameters = described.parameters or row.parameters
        row.context_tokens = described.context_tokens or row.context_tokens
        row.gated = described.gated
        row.shape = described.config
        row.template_hash = prepared.template_hash
        row.files = list(described.files)
        row.light_prefix = prepared.light_prefix
    log.info("base_model_ready", id=row.id, revision=row.revision)
    return row


def prepare(storage: Storage, settings: Settings, base: BaseModelRow) -> Prepared:
    """Look at the base's files, refuse what cannot be trained, and leave the small ones in storage.

    Raises AttuneError (gated_model, model_not_found, base_model_unsafe, base_model_custom_code,
    base_model_unsupported, template_refused), Unavailable (base_model_unavailable).
    """
    if base.source == "folder":
        described = describe_folder(settings.resolved_models_dir, base.location)
    else:
        with Hub(settings) as hub:
            described = hub.describe(base.location, base.revision or None)
    with tempfile.TemporaryDirectory(prefix="base-") as scratch:
        for name, content in described.light.items():
            (Path(scratch) / name).write_bytes(content)
        template = Renderer.from_folder(Path(scratch), TEMPLATE_DATE).template
    prefix = f"bases/{ids.slug(base.id)}/{described.revision}"
    for name, content in described.light.items():
        storage.put_bytes(f"{prefix}/{name}", content)
    return Prepared(described, prefix, template.hash)


def _is_about_the_base(error: AttuneError) -> bool:
    """Rather than about our storage or database, which only have to come back."""
    return not isinstance(error, Unavailable) or (error.code or "").startswith("base_model")


# Files on this machine


def light_folder(storage: Storage, base: BaseModelRow, cache_dir: Path) -> Path:
    """A folder with the base's tokenizer and configuration, fetched once and verified."""
    if base.light_prefix is None:
        message = f"The base model '{base.id}' has no tokenizer in storage; remove it and add it again."
        raise AttuneError(message, code="base_model_unusable", param="model")
    folder = cache_dir / f"{ids.slug(base.id)}-{base.revision[:16]}"
    if folder.is_dir():
        return folder
    cache_dir.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=cache_dir, prefix="."))
    try:
        for file in _files_of(base):
            if file["path"] in LIGHT_FILES:
                storage.fetch(f"{base.light_prefix}/{file['path']}", scratch / file["path"], file["sha256"])
        scratch.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def weights_folder(settings: Settings, base: BaseModelRow, on_progress: Progress) -> Path:
    """A folder with everything, each file as the row's hashes say; downloaded at first use.

    A file is hashed again only when its size or time changed. `on_progress(bytes done, bytes in all)` is called
    while a download runs. Raises AttuneError (base_model_changed), Unavailable (base_model_unavailable).
    """
    files = _files_of(base)
    if base.source == "folder":
        folder = resolve_folder(settings.resolved_models_dir, base.location)
        with Verdicts(settings.work_dir, folder) as verdicts:
            for file in files:
                if not verdicts.holds(file):
                    message = (
                        f"{file['path']} of {base.id} is not the file that was added to the catalog; "
                        "put it back, or add the folder again under another id."
                    )
                    raise AttuneError(message, code="base_model_changed", param="model")
        return folder
    folder = settings.resolved_models_dir / ".hub" / base.location.replace("/", "--") / base.revision
    try:
        make_folder(folder)
        with Verdicts(settings.work_dir, folder) as verdicts:
            for file in files:
                if (folder / file["path"]).exists() and not verdicts.holds(file):
                    (folder / file["path"]).unlink()
            with Hub(settings) as hub:
                hub.fetch_weights(base.location, base.revision, files, folder, on_progress)
            for file in files:
                verdicts.trust(file)
    except OSError as error:
        message = f"{base.id} cannot be kept in {settings.resolved_models_dir}: {error.strerror or error}."
        raise Unavailable(message, code="base_model_unavailable", retry_after_s=60.0) from error
    return folder


def _files_of(base: BaseModelRow) -> list[FileRecord]:
    return [{"path": str(f["path"]), "bytes": int(f["bytes"]), "sha256": str(f["sha256"])} for f in base.files]
