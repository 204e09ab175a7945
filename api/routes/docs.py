"""/docs: the API's description as pages to read and to try out with a key. Everything they load is served here.

Swagger UI comes from the package fastapi-offline, of which only its files are used: no content delivery network.
"""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import Response

from core.errors import NotFound

router = APIRouter(prefix="/docs", include_in_schema=False)
_ASSETS = files("fastapi_offline") / "static"
_KINDS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css", "favicon.png": "image/png"}
# Nothing inline, nothing from elsewhere; data: are the icons within Swagger UI's own stylesheet
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Attune API</title>
<link rel="icon" href="docs/favicon.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
# persistAuthorization off: a key is forgotten with the page. validatorUrl: nothing is sent to swagger.io
_START = """SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  docExpansion: "list",
  persistAuthorization: false,
  validatorUrl: null,
});
"""


@router.get("")
async def page() -> Response:
    return Response(_PAGE, media_type="text/html", headers={"content-security-policy": _POLICY})


@router.get("/start.js")
async def start() -> Response:
    return Response(_START, media_type="text/javascript")


@router.get("/{name}")
def asset(name: str) -> Response:
    if name not in _KINDS:
        raise NotFound(f"Unknown request URL: /docs/{name[:64]}.", code="unknown_url")
    headers = {"cache-control": "public, max-age=86400"}
    return Response((_ASSETS / name).read_bytes(), media_type=_KINDS[name], headers=headers)
