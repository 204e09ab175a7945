"""/healthz: the process answers. /readyz: what it stands on does, too. /metrics: numbers for the operator."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from api.gate.auth import authenticate, bearer
from api.metrics import exposition
from api.openapi import TEXT
from api.parts import Within
from core.errors import AttuneError
from core.upkeep import readiness

router = APIRouter(tags=["health"])
_METRICS: dict[int | str, dict[str, Any]] = {
    **TEXT,
    401: {"description": "Asked from another machine, and no key given"},
    403: {"description": "The key is not an operator's"},
}
_READINESS: dict[int | str, dict[str, Any]] = {
    503: {"description": "Something it stands on does not answer", "content": {"application/json": {"schema": {}}}}
}


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/readyz", responses=_READINESS)
def readyz(parts: Within) -> JSONResponse:
    found = readiness.parts(parts.database, parts.storage)
    ready = all(state == "ok" for state in found.values())
    return JSONResponse({"status": "ready" if ready else "not ready", "parts": found}, 200 if ready else 503)


@router.get("/metrics", response_class=Response, responses=_METRICS)
def metrics(request: Request, parts: Within) -> Response:
    """For requests from this machine, or with an operator's key."""
    if not _is_local(request):
        principal = authenticate(parts.database, bearer(request.headers))
        if not principal.is_operator:
            raise AttuneError("Metrics are for operators.", code="operator_required", status=403)
    return Response(exposition(parts.requests, parts.database), media_type=CONTENT_TYPE_LATEST)


def _is_local(request: Request) -> bool:
    """A reverse proxy on this machine speaks for others; it says so in its headers."""
    proxied = any(name in request.headers for name in ("x-forwarded-for", "forwarded", "x-real-ip"))
    return request.client is not None and not proxied and ip_address(request.client.host).is_loopback
