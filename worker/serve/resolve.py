"""From a model id to what has to be loaded: the only part of the server that asks core's database and storage."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from core.bases import catalog
from core.db import Database
from core.errors import AttuneError
from core.models import BaseModelRow, Job, Model
from core.serving import published
from core.settings import Settings
from core.spec import Quantization, Resolved, Training
from core.store.storage import Storage, StorageCorrupt, StorageMissing
from worker.publish import fetch_adapter


@dataclass(frozen=True)
class BaseKey:
    """What makes two models share the weights in memory."""

    base_model: str  # of the catalog, or the id of a model of which every weight was trained
    revision: str  # or that model's weights' hash
    quantization: Quantization
    double_quantization: bool = True


@dataclass(frozen=True)
class Servable:
    """A model that can be generated with: a base, a base and a published adapter, or a wholly trained model."""

    model_id: str
    base: BaseKey
    base_row: BaseModelRow
    adapter: Model | None  # None: the base itself
    whole: Model | None = None  # with weights of its own, in the base's place

    @property
    def fingerprint(self) -> str:
        """OpenAI's system_fingerprint: changes when the weights do."""
        weights = (self.base.revision, self.base.quantization, self.adapter.adapter_sha256 if self.adapter else "")
        return "fp_" + hashlib.sha256("/".join(weights).encode()).hexdigest()[:10]


class Source:
    """The catalog, the published models and their bytes. Its methods block: call them off the event loop."""

    def __init__(self, settings: Settings, database: Database, storage: Storage) -> None:
        self._settings = settings
        self._database = database
        self._storage = storage
        self._cache = settings.work_dir / "serve" / "adapters"

    def resolve(self, model_id: str) -> Servable:
        """Raises NotFound for an id that names no model and no base of the catalog.

        Whose model it is was checked by the web side, which alone can call this server.
        """
        with self._database.read() as session:
            model = session.get(Model, model_id)
            if model is not None and model.deleted_at is None:
                row = session.get_one(BaseModelRow, model.base_model)
                job = session.get_one(Job, model.job_id)
            elif model is None:
                row, job = catalog.find(session, model_id), None
            else:
                raise published.no_such_model(model_id)
        if model is None or job is None:
            if row.status != "ready":  # a shipped base becomes ready at its first use
                row = catalog.make_ready(self._database, self._storage, self._settings, row)
            # A base alone is held as most adapters want it, so that both share one copy
            return Servable(model_id, BaseKey(row.id, row.revision, Quantization.NF4), row, None)
        resolved = Resolved.model_validate(job.resolved)
        if resolved.training is Training.FULL:
            return Servable(model_id, BaseKey(model.id, model.adapter_sha256, Quantization.NONE), row, None, model)
        if model.base_revision != row.revision:
            raise AttuneError(
                f"The model '{model_id}' was trained on revision {model.base_revision} of {row.id}, of which the "
                f"catalog now has revision {row.revision}. Add that revision to the catalog again.",
                code="base_revision_changed",
                param="model",
            )
        held = BaseKey(row.id, row.revision, resolved.quantization, resolved.double_quantization)
        return Servable(model_id, held, row, model)

    def base_folder(self, servable: Servable) -> Path:
        """The base's files on this machine, downloaded on first use; a wholly trained model's own."""
        if servable.whole is not None:
            return self.adapter_folder(servable.whole)
        return catalog.weights_folder(self._settings, servable.base_row, lambda done, total: None)

    def adapter_folder(self, adapter: Model) -> Path:
        """The published files on this machine, every one checked against its hash."""
        folder = self._cache / hashlib.sha256(adapter.storage_prefix.encode()).hexdigest()[:32]
        folder.mkdir(parents=True, exist_ok=True)
        missing = [file for file in adapter.files if not _holds(folder / file["path"], file["sha256"])]
        try:
            fetch_adapter(self._storage, adapter.storage_prefix, missing, folder)
        except (StorageMissing, StorageCorrupt) as error:
            raise AttuneError(
                f"The files of the model '{adapter.id}' in storage are lost or damaged: {error}",
                code="model_damaged",
                status=500,
                type="server_error",
            ) from error
        self._forget_old(folder)
        return folder

    def _forget_old(self, newest: Path) -> None:
        """Keep as many folders as could be in memory twice over; the rest is fetched again when it is wanted."""
        newest.touch()
        keep = 2 * self._settings.serve_adapters * self._settings.serve_bases
        for folder in sorted(self._cache.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)[keep:]:
            shutil.rmtree(folder, ignore_errors=True)


def _holds(path: Path, sha256: str) -> bool:
    if not path.exists():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256
