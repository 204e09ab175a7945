"""A browser's upload, handed on to POST /v1/files as it arrives: no byte of it is kept here."""

from __future__ import annotations

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from api.dashboard.rest import GONE, UPLOAD_TIMEOUT_S, Rest

_PASSED_ON = ("content-type", "content-length")


async def relay_upload(request: Request, rest: Rest) -> Response:
    headers = rest.headers | {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
    try:
        async with httpx.AsyncClient(timeout=UPLOAD_TIMEOUT_S, trust_env=False) as http:
            answer = await http.post(rest.url("/v1/files"), headers=headers, content=request.stream())
    except httpx.TransportError:
        return JSONResponse({"error": {"message": GONE}}, 503)
    return Response(answer.content, answer.status_code, media_type="application/json")
