"""/embed/jobs/{id}: one job to look at, for frames in other sites; and the route that makes its tokens.

The page is the same for everybody and holds nothing: its token stands behind the #, which browsers send to no server,
and its script asks the REST API with it. Which sites may frame it is the operator's list.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter
from fastapi.responses import FileResponse, Response
from pydantic import Field

from api.parts import Caller, Within
from api.shapes.wire import Ours, Shown
from core.access import embeds
from core.access.embeds import Embed
from core.jobs import jobs

router = APIRouter()
DAY_S = 86_400
USUAL_S, MOST_S = 30 * DAY_S, 366 * DAY_S
_FOLDER = Path(__file__).parent / "embed_page"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors {ancestors}"
)


class EmbedTokenCreate(Ours):
    expires_in_s: Annotated[int, Field(ge=1, le=MOST_S, strict=True)] = USUAL_S


class EmbedToken(Shown):
    object: Literal["attune.embed_token"] = "attune.embed_token"
    job: str
    token: str  # of reading this job, its events and checkpoints, and of nothing else
    expires_at: int
    path: str  # of the page, with the token: what an iframe shows


@router.post("/v1/attune/fine_tuning/jobs/{fine_tuning_job_id}/embed_tokens", tags=["attune"])
def create_embed_token(
    fine_tuning_job_id: str, caller: Caller, parts: Within, body: EmbedTokenCreate | None = None
) -> EmbedToken:
    """It cannot be taken back by itself: it ends at its time, or when the key that made it is revoked."""
    expires_at = int(time.time()) + (body or EmbedTokenCreate()).expires_in_s
    with parts.database.read() as session:
        job = jobs.get(session, caller.project_id, fine_tuning_job_id)
        token = embeds.sign(session, Embed(caller.key_id, caller.project_id, job.id, expires_at))
    return EmbedToken(job=job.id, token=token, expires_at=expires_at, path=f"/embed/jobs/{job.id}#token={token}")


@router.get("/embed/jobs/{fine_tuning_job_id}", include_in_schema=False)
async def embed_page(fine_tuning_job_id: str, parts: Within) -> Response:
    policy = _POLICY.format(ancestors=" ".join(parts.settings.embed_origin_list) or "'none'")
    return FileResponse(_FOLDER / "job.html", headers={"content-security-policy": policy})


@router.get("/embed/job.js", include_in_schema=False)
async def embed_script() -> Response:
    return FileResponse(_FOLDER / "job.js")


@router.get("/embed/job.css", include_in_schema=False)
async def embed_style() -> Response:
    return FileResponse(_FOLDER / "job.css")
