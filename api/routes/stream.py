"""GET /v1/attune/fine_tuning/jobs/{id}/stream: a job's events as server-sent events, as they are written.

`Last-Event-ID` (or `after`) goes on where a connection broke off: with an event's number, which is its id here, or
with its id of the events list. https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response, StreamingResponse

from api.gate.auth import authenticate, bearer
from api.parts import Caller, Parts, Within
from core.errors import AttuneError
from core.jobs import follow, jobs
from core.jobs.follow import Standing
from core.models import TERMINAL

router = APIRouter(prefix="/v1/attune/fine_tuning/jobs", tags=["attune"])
RECONNECT_MS = 1000
RECHECK_S = 60.0  # a key that was revoked hears no longer than this
EventName = Annotated[str | None, Query(max_length=128)]
# Of each message, as OpenAPI 3.1 has it for want of a word for streams
_MESSAGE: dict[str, Any] = {
    "type": "object",
    "required": ["id", "data"],
    "properties": {
        "id": {"type": "string", "description": "The event's number within its job"},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"$ref": "#/components/schemas/EventObject"},
        },
    },
}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "One message for each event: `id` its number, `data` the event's object. Ends after the last.",
        "content": {"text/event-stream": {"schema": _MESSAGE}},
    },
    204: {"description": "The job is over and has no later event; an EventSource stops asking."},
}


@router.get("/{fine_tuning_job_id}/stream", response_class=Response, responses=_ANSWERS)
async def stream_events(
    fine_tuning_job_id: str,
    request: Request,
    caller: Caller,
    parts: Within,
    after: EventName = None,
    last_event_id: Annotated[str | None, Header(max_length=128)] = None,
) -> Response:
    """The job's events from the first, or from the one after `Last-Event-ID`, until the job is over."""
    start = last_event_id or after
    standing, seq = await to_thread.run_sync(_place, parts, caller.project_id, fine_tuning_job_id, start)
    if standing.is_over and seq >= standing.seq:
        return Response(status_code=204)
    headers = {"x-accel-buffering": "no"}  # nginx would hold it back
    messages = _messages(parts, bearer(request.headers), fine_tuning_job_id, standing, seq)
    return StreamingResponse(messages, media_type="text/event-stream", headers=headers)


def _place(parts: Parts, project_id: str, job_id: str, start: str | None) -> tuple[Standing, int]:
    with parts.database.read() as session:
        job = jobs.get(session, project_id, job_id)
        seq = 0 if start is None else follow.seq_of(session, job_id, start)
        return Standing(job.event_seq, job.status in TERMINAL), seq


async def _messages(parts: Parts, key: str, job_id: str, standing: Standing, seq: int) -> AsyncGenerator[str]:
    checked_at = time.monotonic()
    yield f"retry: {RECONNECT_MS}\n\n"
    async with aclosing(parts.listeners.events(job_id, standing, seq)) as events:
        async for numbered in events:
            if time.monotonic() - checked_at > RECHECK_S:
                checked_at = time.monotonic()
                if not await to_thread.run_sync(_is_in_force, parts, key):
                    return
            if numbered is None:
                yield ": still here\n\n"
            else:
                yield f"id: {numbered[0]}\ndata: {numbered[1]}\n\n"


def _is_in_force(parts: Parts, key: str) -> bool:
    try:
        authenticate(parts.database, key)
    except AttuneError as error:
        return error.status != 401
    return True
