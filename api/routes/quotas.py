"""A project with what it uses and what it may have: everyone in it may look, operators set."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import Field

from api.parts import Caller, Operator, Within
from api.routes.operators import ProjectObject
from api.shapes.wire import Ours, Shown
from core.access import projects, quotas
from core.access.quotas import Usage
from core.errors import NotFound
from core.models import Project

router = APIRouter(prefix="/v1/attune/projects/{project_id}", tags=["operators"])
MAX_NUMBER = 2**53 - 1  # the largest that every JSON reader keeps exact
Limit = Annotated[int, Field(ge=0, le=MAX_NUMBER, strict=True)] | None


class QuotaChange(Ours):
    """What is left out stays as it is; null lifts a limit."""

    max_jobs: Limit = None  # and batches, unfinished at once
    max_stored_bytes: Limit = None
    max_requests_per_minute: Annotated[int, Field(ge=1, le=MAX_NUMBER, strict=True)] | None = None


class Quotas(Shown):
    max_jobs: int | None
    max_stored_bytes: int | None
    max_requests_per_minute: int | None


class UsageShown(Shown):
    jobs: int  # and batches, unfinished
    stored_bytes: int  # of files and adapters


class ProjectDetail(ProjectObject):
    quotas: Quotas
    usage: UsageShown


def _show(row: Project, usage: Usage) -> ProjectDetail:
    return ProjectDetail(
        id=row.id,
        name=row.name,
        slug=row.slug,
        created_at=int(row.created_at),
        quotas=Quotas(
            max_jobs=row.max_jobs,
            max_stored_bytes=row.max_stored_bytes,
            max_requests_per_minute=row.max_requests_per_minute,
        ),
        usage=UsageShown(jobs=usage.jobs, stored_bytes=usage.stored_bytes),
    )


@router.get("")
def retrieve_project(project_id: str, caller: Caller, parts: Within) -> ProjectDetail:
    if project_id != caller.project_id and not caller.is_operator:
        raise NotFound(f"No such project: {project_id}", code="project_not_found", param="project_id")
    with parts.database.read() as session:
        return _show(projects.get(session, project_id), quotas.usage(session, project_id))


@router.post("", operation_id="set_quotas")
@router.patch("", operation_id="patch_quotas")
def set_quotas(project_id: str, body: QuotaChange, _: Operator, parts: Within) -> ProjectDetail:
    """Limits hold from the next request on; what is there already stays."""
    with parts.database.begin() as session:
        row = projects.lock(session, project_id)
        for name, value in body.model_dump(exclude_unset=True).items():
            setattr(row, name, value)
        return _show(row, quotas.usage(session, project_id))
