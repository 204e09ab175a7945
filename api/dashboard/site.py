"""The dashboard as one ASGI app, to be mounted: NiceGUI's pages behind the door. One in a process, as NiceGUI is."""

from __future__ import annotations

from pathlib import Path

import httpx
from fastapi import FastAPI
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.staticfiles import StaticFiles
from nicegui import ui

from api.dashboard import pages
from api.dashboard.door import Door
from api.dashboard.marks import ICON

STATIC = Path(__file__).parent / "static"
RECONNECT_S = 10.0  # how long a page that lost its connection finds everything as it was


def create_site() -> FastAPI:
    """To be started once, with its lifespan."""
    site = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    site.mount("/static", StaticFiles(directory=STATIC))
    pages.load()
    ui.run_with(
        site,
        title="Attune",
        favicon=ICON,
        language="en-US",
        dark=None,
        tailwind=False,
        reconnect_timeout=RECONNECT_S,
        show_welcome_message=False,
        gzip_middleware_factory=None,  # the door reads the pages; they are packed outside of it
    )
    http = httpx.AsyncClient(trust_env=False, limits=httpx.Limits(max_connections=256))
    site.add_middleware(Door, http=http)
    site.add_middleware(GZipMiddleware, minimum_size=1000)
    site.router.on_shutdown.append(http.aclose)
    return site
