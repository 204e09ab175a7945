"""/v1/fine_tuning/jobs: create, list, look, cancel, pause, resume, events, checkpoints.

Each answers from one visible transaction; whoever has to act on it is told after the commit.
"""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from starlette.datastructures import QueryParams

from api import plans
from api.audit import Log
from api.ended import listed
from api.job_object import (
    CheckpointList,
    EventList,
    JobList,
    JobObject,
    show_checkpoint,
    show_event,
    show_job,
)
from api.job_request import CreateJob
from api.parts import Caller, Within
from api.replay import AsAsked
from api.wire import ends, written
from core import crash_points, dry_run, intake, jobs, published, replay
from core.dry_run import PlanObject
from core.models import JobStatus

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"])
After = Annotated[str | None, Query(max_length=128)]
_METADATA = re.compile(r"metadata\[(.{1,64})\]", re.DOTALL)


@router.post("", response_model=JobObject | PlanObject, responses={202: {"model": PlanObject}})
def create_job(
    body: CreateJob, caller: Caller, parts: Within, asked: AsAsked, log: Log, response: Response
) -> Response | PlanObject:
    """A job; with `attune.dry_run` its plan, and no job."""
    wanted = body.wanted(parts.settings.mlflow_allow)
    if body.attune is not None and body.attune.dry_run:
        with parts.database.begin() as session:
            found = dry_run.of_files(session, caller.project_id, wanted)
        return plans.answer(found, parts, response)
    with parts.database.begin(alone_at=asked.chain) as session:
        earlier = replay.earlier(session, caller.project_id, asked)
        if earlier is not None:
            job = jobs.get(session, caller.project_id, earlier)
        else:
            job = intake.accept(session, caller.project_id, wanted)
            replay.note(session, caller.project_id, job.id, asked)
            log.note(session, job.id)
            crash_points.here("create.written")
    crash_points.here("create.committed")
    parts.poke()
    return written(show_job(job))


@router.get("", response_model=JobList)
def list_jobs(
    request: Request,
    caller: Caller,
    parts: Within,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Response:
    metadata = _metadata_filter(request.query_params)
    without = request.query_params.get("metadata") == "null"
    with parts.database.read() as session:
        job_ids, has_more = jobs.page(
            session, caller.project_id, after=after, limit=limit, metadata=metadata, without_metadata=without
        )
        known = parts.ended.known(job_ids)
        rows = jobs.several(session, [job_id for job_id in job_ids if job_id not in known])
    texts = known | parts.ended.write(rows)
    # one that is in neither was erased with its project between the two looks
    found = [texts[job_id] for job_id in job_ids if job_id in texts]
    return Response(listed(found, has_more=has_more), media_type="application/json")


def _metadata_filter(query: QueryParams) -> dict[str, str]:
    """metadata[key]=value, as the SDK writes a nested object."""
    found: dict[str, str] = {}
    for name, value in query.multi_items():
        if match := _METADATA.fullmatch(name):
            found[match[1]] = value
    return found


@router.get("/{fine_tuning_job_id}", response_model=JobObject)
def retrieve_job(fine_tuning_job_id: str, caller: Caller, parts: Within) -> Response:
    with parts.database.read() as session:
        job = jobs.get(session, caller.project_id, fine_tuning_job_id)
    return written(show_job(job))


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
