"""/v1/attune, for operators: projects, base models, workers and servers. Everyone may see the catalog."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import Field, HttpUrl, StringConstraints, TypeAdapter

from api.parts import Caller, Operator, Within
from api.shapes.wire import Deleted, Ours, Shown
from core import workers
from core.access import projects
from core.bases import catalog
from core.errors import AttuneError, NotFound
from core.models import BaseModelRow, Project, Server, Worker
from core.serving import servers
from core.storable import ModelId, Name, Text
from core.upkeep import erase

router = APIRouter(prefix="/v1/attune", tags=["operators"])
_URL = TypeAdapter(HttpUrl)


class ProjectCreate(Ours):
    name: Name


class ProjectObject(Shown):
    id: str
    object: Literal["attune.project"] = "attune.project"
    name: str
    slug: str  # the organization part of its model ids
    created_at: int


class ProjectList(Shown):
    object: Literal["list"] = "list"
    data: list[ProjectObject]


def _show_project(row: Project) -> ProjectObject:
    return ProjectObject(id=row.id, name=row.name, slug=row.slug, created_at=int(row.created_at))


@router.post("/projects")
def create_project(body: ProjectCreate, _: Operator, parts: Within) -> ProjectObject:
    with parts.database.begin() as session:
        row = projects.create(session, body.name)
    return _show_project(row)


@router.get("/projects")
def list_projects(_: Operator, parts: Within) -> ProjectList:
    with parts.database.read() as session:
        return ProjectList(data=[_show_project(row) for row in projects.listed(session)])


@router.delete("/projects/{project_id}")
def erase_project(project_id: str, _: Operator, parts: Within) -> Deleted:
    """Removes every row and object of the project, for good. A 503 says that it goes on when called again."""
    erase.erase_project(parts.database, parts.storage, project_id)
    return Deleted(id=project_id, object="attune.project")


class BaseModelAdd(Ours):
    location: ModelId  # a hub's repository, or a folder's name below the models directory
    source: Literal["hub", "folder"] = "hub"
    revision: Annotated[Text, StringConstraints(min_length=1, max_length=128)] | None = None
    id: ModelId | None = None  # None: the location


class BaseModelObject(Shown):
    id: str
    object: Literal["attune.base_model"] = "attune.base_model"
    created_at: int
    source: str
    location: str
    revision: str
    status: str  # available, preparing, ready, error
    error: str | None
    licence: str | None
    parameters: int | None
    context_tokens: int | None
    gated: bool
    description: str | None
    template_hash: str | None


class BaseModelList(Shown):
    object: Literal["list"] = "list"
    data: list[BaseModelObject]


def _show_base(row: BaseModelRow) -> BaseModelObject:
    return BaseModelObject(
        id=row.id,
        created_at=int(row.created_at),
        source=row.source,
        location=row.location,
        revision=row.revision,
        status=row.status,
        error=row.error,
        licence=row.licence,
        parameters=row.parameters,
        context_tokens=row.context_tokens,
        gated=row.gated,
        description=row.description,
        template_hash=row.template_hash,
    )


@router.get("/base_models")
def list_base_models(_: Caller, parts: Within) -> BaseModelList:
    with parts.database.read() as session:
        return BaseModelList(data=[_show_base(row) for row in catalog.list_all(session)])


@router.post("/base_models")
def add_base_model(body: BaseModelAdd, _: Operator, parts: Within) -> BaseModelObject:
    with parts.database.begin() as session:
        row = catalog.add(session, body.location, source=body.source, revision=body.revision, id=body.id)
        session.refresh(row)
    parts.poke()
    return _show_base(row)


@router.get("/base_models/{model:path}")
def retrieve_base_model(model: str, _: Caller, parts: Within) -> BaseModelObject:
    with parts.database.read() as session:
        return _show_base(catalog.find(session, model))


@router.delete("/base_models/{model:path}")
def remove_base_model(model: str, _: Operator, parts: Within) -> Deleted:
    with parts.database.begin() as session:
        catalog.remove(session, model)
    return Deleted(id=model, object="attune.base_model")


class WorkerObject(Shown):
    id: str
    object: Literal["attune.worker"] = "attune.worker"
    host: str
    device: str
    device_name: str
    memory_bytes: int
    labels: list[str]
    resident_base: str | None
    state: str
    job: str | None
    versions: dict[str, str]
    started_at: int
    seen_at: int


class WorkerList(Shown):
    object: Literal["list"] = "list"
    data: list[WorkerObject]


def _show_worker(row: Worker) -> WorkerObject:
    return WorkerObject(
        id=row.id,
        host=row.host,
        device=row.device,
        device_name=row.device_name,
        memory_bytes=row.memory_bytes,
        labels=row.labels,
        resident_base=row.resident_base,
        state=row.state,
        job=row.job_id,
        versions=row.versions,
        started_at=int(row.started_at),
        seen_at=int(row.beat_at),
    )


@router.get("/workers")
def list_workers(_: Operator, parts: Within) -> WorkerList:
    with parts.database.read() as session:
        return WorkerList(data=[_show_worker(row) for row in workers.alive(session)])


class ServerAdd(Ours):
    id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    address: Annotated[str, Field(max_length=512)]  # http(s)://host:port, without /v1
    base_model: ModelId


class ServerObject(Shown):
    id: str
    object: Literal["attune.server"] = "attune.server"
    base_model: str | None  # null: every base of the catalog
    address: str
    device: str  # "external": added by an operator
    started_at: int
    seen_at: int | None


class ServerList(Shown):
    object: Literal["list"] = "list"
    data: list[ServerObject]


def _show_server(row: Server) -> ServerObject:
    return ServerObject(
        id=row.id,
        base_model=row.base_model,
        address=row.address,
        device=row.device,
        started_at=int(row.started_at),
        seen_at=None if row.device == servers.EXTERNAL else int(row.beat_at),
    )


@router.get("/servers")
def list_servers(_: Operator, parts: Within) -> ServerList:
    with parts.database.read() as session:
        return ServerList(data=[_show_server(row) for row in servers.alive(session)])


@router.post("/servers")
def add_server(body: ServerAdd, _: Operator, parts: Within) -> ServerObject:
    """An OpenAI-compatible server that serves one base and knows the adapters by our model ids."""
    try:
        _URL.validate_python(body.address)
    except ValueError as error:
        message = "address has to read http://host:port or https://host."
        raise AttuneError(message, code="invalid_value", param="address") from error
    with parts.database.begin() as session:
        catalog.find(session, body.base_model)
        servers.register(session, body.id, base_model=body.base_model, address=body.address, device=servers.EXTERNAL)
        row = next(row for row in servers.alive(session) if row.id == body.id)
        session.refresh(row)
    return _show_server(row)


@router.delete("/servers/{server_id}")
def remove_server(server_id: str, _: Operator, parts: Within) -> Deleted:
    with parts.database.begin() as session:
        if all(row.id != server_id for row in servers.alive(session)):
            raise NotFound(f"No such server: {server_id}", code="server_not_found", param="server_id")
        servers.leave(session, server_id)
    return Deleted(id=server_id, object="attune.server")
