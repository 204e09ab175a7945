"""/v1/fine_tuning/jobs: create, list, look, cancel, pause, resume, events, checkpoints.

Each answers from one visible transaction; whoever has to act on it is told after the commit.
"""

from __future__ import annotations

import re
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response
from starlette.datastructures import QueryParams

from api.gate.audit import Log
from api.gate.replay import AsAsked
from api.parts import Caller, Parts, Within
from api.routes import plans
from api.shapes.job_object import (
    CheckpointList,
    EventList,
    JobList,
    JobObject,
    show_checkpoint,
    show_event,
    show_job,
)
from api.shapes.job_request import CreateJob
from api.shapes.wire import ends
from api.together.creates import Create
from api.together.looks import JobsPage
from core import crash_points
from core.access.projects import Principal
from core.jobs import jobs
from core.jobs.intake import Wanted
from core.models import JobStatus
from core.planning import dry_run
from core.planning.dry_run import PlanObject
from core.serving import published

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"])
After = Annotated[str | None, Query(max_length=128)]
_METADATA = re.compile(r"metadata\[(.{1,64})\]", re.DOTALL)


@router.post("", response_model=JobObject | PlanObject, responses={202: {"model": PlanObject}})
async def create_job(
    body: CreateJob, caller: Caller, parts: Within, asked: AsAsked, log: Log, response: Response
) -> Response | PlanObject:
    """A job; with `attune.dry_run` its plan, and no job."""
    wanted = body.wanted(parts.settings.mlflow_allow)
    if body.attune is not None and body.attune.dry_run:
        return await to_thread.run_sync(_plan, parts, caller, wanted, response)
    text = await parts.creates.job(caller.project_id, Create(wanted, asked, log.done))
    parts.poke()
    return Response(text, media_type="application/json")


def _plan(parts: Parts, caller: Principal, wanted: Wanted, response: Response) -> PlanObject:
    with parts.database.begin() as session:
        found = dry_run.of_files(session, caller.project_id, wanted)
    return plans.answer(found, parts, response)


@router.get("", response_model=JobList)
async def list_jobs(
    request: Request,
    caller: Caller,
    parts: Within,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Response:
    metadata = tuple(sorted(_metadata_filter(request.query_params).items()))
    page = JobsPage(after, limit, metadata, without_metadata=request.query_params.get("metadata") == "null")
    return Response(await parts.looks.jobs(caller.project_id, page), media_type="application/json")


def _metadata_filter(query: QueryParams) -> dict[str, str]:
    """metadata[key]=value, as the SDK writes a nested object."""
    found: dict[str, str] = {}
    for name, value in query.multi_items():
        if match := _METADATA.fullmatch(name):
            found[match[1]] = value
    return found


@router.get("/{fine_tuning_job_id}", response_model=JobObject)
async def retrieve_job(fine_tuning_job_id: str, caller: Caller, parts: Within) -> Response:
    return Response(await parts.looks.job(caller.project_id, fine_tuning_job_id), media_type="application/json")


@router.post("/{fine_tuning_job_id}/cancel")
def cancel_job(fine_tuning_job_id: str, caller: Caller, parts: Within) -> JobObject:
    with parts.database.begin() as session:
        job = jobs.cancel(session, caller.project_id, fine_tuning_job_id)
        crash_points.here("cancel.written")
    crash_points.here("cancel.committed")
    return show_job(job)


@router.post("/{fine_tuning_job_id}/pause")
def pause_job(fine_tuning_job_id: str, caller: Caller, parts: Within) -> JobObject:
    with parts.database.begin() as session:
        job = jobs.pause(session, caller.project_id, fine_tuning_job_id)
    return show_job(job)


@router.post("/{fine_tuning_job_id}/resume")
def resume_job(fine_tuning_job_id: str, caller: Caller, parts: Within) -> JobObject:
    with parts.database.begin() as session:
        job = jobs.resume(session, caller.project_id, fine_tuning_job_id)
    if job.status == JobStatus.QUEUED:
        parts.poke_workers()
    return show_job(job)


@router.get("/{fine_tuning_job_id}/events")
def list_events(
    fine_tuning_job_id: str,
    caller: Caller,
    parts: Within,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
) -> EventList:
    with parts.database.read() as session:
        job = jobs.get(session, caller.project_id, fine_tuning_job_id)
        rows, has_more = jobs.events_page(session, job, after=after, limit=limit)
    return EventList(data=[show_event(row) for row in rows], has_more=has_more)


@router.get("/{fine_tuning_job_id}/checkpoints")
def list_checkpoints(
    fine_tuning_job_id: str,
    caller: Caller,
    parts: Within,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
) -> CheckpointList:
    with parts.database.read() as session:
        job = jobs.get(session, caller.project_id, fine_tuning_job_id)
        rows, has_more = published.checkpoints_page(session, job, after=after, limit=limit)
    data = [show_checkpoint(row) for row in rows]
    return CheckpointList(data=data, **ends(data), has_more=has_more)
