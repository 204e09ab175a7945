"""/v1/models: what the caller may train or chat with: base models, fine-tuned models, checkpoints."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter

from api.parts import Caller, Within
from api.shapes.wire import Deleted, Shown
from core.access.projects import Principal
from core.bases import catalog
from core.errors import AttuneError
from core.models import BaseModelRow, Model
from core.serving import aliases, published

router = APIRouter(prefix="/v1/models", tags=["models"])
BASE_OWNER = "attune"


class ModelFile(Shown):
    path: str
    bytes: int
    sha256: str


class ModelAttune(Shown):
    kind: Literal["base", "fine_tuned", "checkpoint"]
    base_model: str
    status: str  # of a base: ready, or what comes before; an adapter is ready
    parameters: int | None = None  # of a base
    context_tokens: int | None = None
    licence: str | None = None
    alias_of: str | None = None  # the id is another name of this model
    shared: bool = False  # by another project: to use, not to download or delete
    job: str | None = None
    step: int | None = None
    quantization: str | None = None
    adapter_sha256: str | None = None
    template_hash: str | None = None
    zip_bytes: int | None = None
    files: list[ModelFile] | None = None
    proof: dict[str, Any] | None = None


class ModelObject(Shown):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    attune: ModelAttune


class ModelList(Shown):
    object: Literal["list"] = "list"
    data: list[ModelObject]


def show_base(row: BaseModelRow) -> ModelObject:
    return ModelObject(
        id=row.id,
        created=int(row.created_at),
        owned_by=row.id.split("/")[0] if "/" in row.id else BASE_OWNER,
        attune=ModelAttune(
            kind="base",
            base_model=row.id,
            status=row.status,
            parameters=row.parameters,
            context_tokens=row.context_tokens,
            licence=row.licence,
            template_hash=row.template_hash,
        ),
    )


def show_model(row: Model, owner: str, caller: Principal) -> ModelObject:
    """`owner`: its slug. What leads to the owner's job and to the bytes is not shown to those it is shared with."""
    is_own = row.project_id == caller.project_id
    return ModelObject(
        id=row.id,
        created=int(row.created_at),
        owned_by=owner,
        attune=ModelAttune(
            kind="checkpoint" if row.is_checkpoint else "fine_tuned",
            base_model=row.base_model,
            status="ready",
            shared=not is_own,
            job=row.job_id if is_own else None,
            step=row.step,
            quantization=row.quantization,
            adapter_sha256=row.adapter_sha256,
            template_hash=row.template_hash,
            zip_bytes=row.zip_bytes if is_own else None,
            files=[ModelFile.model_validate(file) for file in row.files] if is_own else None,
            proof=row.proof,
        ),
    )


@router.get("")
def list_models(caller: Caller, parts: Within) -> ModelList:
    with parts.database.read() as session:
        adapters = published.listed(session, caller.project_id)
        bases = catalog.list_usable(session)
        others = aliases.listed(session, caller.project_id)
    tuned = [show_model(row, owner, caller) for row, owner in adapters]
    base = [show_base(row) for row in bases]
    known = {shown.id: shown for shown in (*tuned, *base)}
    named = [
        _show_alias(alias.name, known[alias.target])
        for alias in others
        if alias.target in known and alias.name not in known
    ]
    return ModelList(data=[*tuned, *named, *base])


def _show_alias(name: str, target: ModelObject) -> ModelObject:
    ours = target.attune.model_copy(update={"alias_of": target.id})
    return target.model_copy(update={"id": name, "attune": ours})


# :path, since some clients encode the slash of a base's id and some do not
@router.get("/{model:path}")
def retrieve_model(model: str, caller: Caller, parts: Within) -> ModelObject:
    with parts.database.read() as session:
        model_id = aliases.resolve(session, caller.project_id, model)
        row = published.find(session, caller.project_id, model_id)
        if row is None:
            shown = show_base(catalog.find(session, model_id))
        else:
            shown = show_model(row, published.owner_slug(session, row), caller)
    return shown if model_id == model else _show_alias(model, shown)


@router.delete("/{model:path}")
def delete_model(model: str, caller: Caller, parts: Within) -> Deleted:
    with parts.database.begin() as session:
        if published.find(session, caller.project_id, model) is None:
            if aliases.resolve(session, caller.project_id, model) != model:
                message = f"'{model}' is an alias; delete it at /v1/attune/aliases, or name the model that it leads to."
                raise AttuneError(message, code="model_is_alias", param="model")
            catalog.find(session, model)
            message = f"'{model}' is a base model. An operator takes it out with `attune models remove`."
            raise AttuneError(message, code="model_not_owned", param="model", status=403)
        published.delete(session, caller.project_id, model)
    return Deleted(id=model, object="model")  # the janitor removes the objects
