"""A browser's uploads and downloads, handed on to and from the API as they arrive: no byte is kept here, and no key
has to stand in an address."""

from __future__ import annotations

import httpx
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from api.dashboard.rest import GONE, UPLOAD_TIMEOUT_S, Rest, in_path

_SENT_UP = ("content-type", "content-length")
_ASKED = ("range", "if-range", "if-none-match")
_HANDED_OUT = ("content-type", "content-length", "content-disposition", "content-range", "accept-ranges", "etag")
MODELS, FILES = "/download/models/", "/download/files/"


async def relay_upload(request: Request, rest: Rest) -> Response:
    headers = rest.headers | {name: request.headers[name] for name in _SENT_UP if name in request.headers}
    try:
        async with httpx.AsyncClient(timeout=UPLOAD_TIMEOUT_S, trust_env=False) as http:
            answer = await http.post(rest.url("/v1/files"), headers=headers, content=request.stream())
    except httpx.TransportError:
        return JSONResponse({"error": {"message": GONE}}, 503)
    return Response(answer.content, answer.status_code, media_type="application/json")


async def relay_download(request: Request, rest: Rest, path: str) -> Response:
    """`path`: below the dashboard. Where the store has an address for browsers, they are sent there."""
    if path.startswith(MODELS):
        wanted = f"/v1/attune/models/{in_path(path.removeprefix(MODELS))}/download"
    elif path.startswith(FILES):
        wanted = f"/v1/files/{in_path(path.removeprefix(FILES))}/content"
    else:
        return PlainTextResponse("Not found.", 404)
    asked = {name: request.headers[name] for name in _ASKED if name in request.headers}
    http = httpx.AsyncClient(timeout=UPLOAD_TIMEOUT_S, trust_env=False)
    try:
        # identity: what is packed on the way would not have the length that is announced
        answer = await http.send(
            http.build_request("GET", rest.url(wanted), headers=rest.headers | asked | {"accept-encoding": "identity"}),
            stream=True,
        )
    except httpx.TransportError:
        await http.aclose()
        return PlainTextResponse(GONE, 503)
    if answer.status_code == 307:
        await http.aclose()
        return Response(status_code=307, headers={"location": answer.headers["location"]})
    headers = {name: answer.headers[name] for name in _HANDED_OUT if name in answer.headers}
    return StreamingResponse(answer.aiter_raw(), answer.status_code, headers, background=BackgroundTask(http.aclose))
