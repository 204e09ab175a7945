"""The web side: `uvicorn api.app:app`. Opens its parts with the app, closes them with it, and knows no torch."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import structlog
from anyio import to_thread
from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import RedirectResponse, Response

from api import errors, openapi
from api.beside.background import create_background
from api.beside.webhook_sender import Sender
from api.gate import audit
from api.gate.admission import LINE, THREADS, Line
from api.gate.auth import Gate
from api.gate.body import Pace
from api.gate.edge import Edge
from api.gate.open_bodies import OpenBodies
from api.gate.rate_limit import RateLimit
from api.gate.recent import Recent
from api.gate.replay import Replay
from api.gate.told_to_stop import when_told_to_stop
from api.gate.unchanged import Unchanged
from api.http_head import MAX_CONNECTIONS, room
from api.metrics import Requests
from api.parts import Parts
from api.routes import (
    aliases,
    attune,
    batches,
    chat,
    docs,
    doctor,
    doctor_at_once,
    embed,
    files,
    graders,
    health,
    jobs,
    keys,
    models,
    operators,
    permissions,
    plans,
    quotas,
    sample_data,
    sessions,
    stored_completions,
    stream,
    uploads,
    webhooks,
)
from api.together.creates import Creates
from api.together.listeners import Listeners
from api.together.looks import Looks
from core import collector
from core.access.rates import Rates
from core.bases import catalog
from core.db import Database, open_database
from core.errors import Unavailable
from core.logs import configure_logs
from core.serving import completions
from core.serving.serve_token import serve_token
from core.settings import Settings, load_settings
from core.store.storage import open_storage

log = structlog.get_logger()
SHOWN_ACROSS = ("x-request-id", "retry-after", "etag", "content-disposition")  # to scripts of other sites


def create_app(
    settings: Settings, *, with_background: bool = True, with_dashboard: bool = False, pace: Pace | None = None
) -> FastAPI:
    """The app over `settings`; nothing is opened before it starts.

    `with_dashboard`: there can be one in a process.
    `with_background=False`: answer requests only, where another process prepares jobs and rings workers.
    """
    requests = Requests()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[dict[str, object]]:
        configure_logs(settings)
        to_thread.current_default_thread_limiter().total_tokens = THREADS
        async with AsyncExitStack() as stack:
            parts = await to_thread.run_sync(_open, settings, requests, with_background)
            app.state.parts = parts
            if parts.background is not None:
                parts.background.start()
            stack.push_async_callback(_close, parts)
            if with_dashboard:
                await stack.enter_async_context(_dashboard(app))
            stack.enter_context(when_told_to_stop(parts.listeners.end))
            if threading.current_thread() is threading.main_thread():  # else the program is not ours
                collector.spare()
            yield {MAX_CONNECTIONS: room(settings.max_connections), LINE: Line(requests.refuse)}

    app = FastAPI(
        title="Attune",
        description="Fine-tuning as a service of your own, in OpenAI's words.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=openapi.operation_id,
    )
    errors.install(app)
    openapi.install(app)
    routed = (
        health,
        files,
        uploads,
        jobs,
        stream,
        permissions,
        models,
        chat,
        graders,
        attune,
        plans,
        keys,
        audit,
        operators,
        batches,
        quotas,
        webhooks,
        aliases,
        stored_completions,
        doctor,
        doctor_at_once,
        embed,
        sessions,
        sample_data,
    )
    for module in routed:
        app.include_router(module.router)
    app.include_router(docs.router)
    for layer in (Unchanged, Replay):
        app.add_middleware(layer)
    app.add_middleware(OpenBodies, settings=settings)
    app.add_middleware(RateLimit)
    app.add_middleware(Gate, pace=pace or Pace())
    if settings.cors_origin_list:  # outside of the gate: a browser asks first, and without a key
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origin_list,
            allow_methods=["GET", "POST", "PATCH", "DELETE"],
            allow_headers=["*"],
            expose_headers=list(SHOWN_ACROSS),
        )
    app.add_middleware(Edge, requests=requests)  # the last added is the outermost
    return app


@asynccontextmanager
async def _dashboard(app: FastAPI) -> AsyncGenerator[None]:
    """Mount the dashboard for as long as the app runs."""
    from api.dashboard.site import create_site  # here: it costs memory, and a place without it shall not pay

    site = create_site()
    app.mount("/dashboard", site)
    app.add_route("/", to_dashboard)
    async with site.router.lifespan_context(site):
        yield


async def to_dashboard(_: Request) -> Response:
    return RedirectResponse("/dashboard/", status_code=303)


async def _close(parts: Parts) -> None:
    if parts.background is not None:
        await to_thread.run_sync(parts.background.stop)
    parts.listeners.close()
    await parts.http.aclose()
    await parts.rates.close()
    parts.database.close()


def _open(settings: Settings, requests: Requests, with_background: bool) -> Parts:
    database = open_database(settings.resolved_database_url)
    storage = open_storage(settings)
    _register_bases(database, settings)
    sender = Sender(settings.webhook_allow)
    return Parts(
        settings=settings,
        database=database,
        storage=storage,
        http=completions.open_client(),
        serve_token=serve_token(settings),
        requests=requests,
        sender=sender,
        rates=Rates(settings.resolved_broker_url),
        listeners=Listeners(database),
        looks=Looks(database),
        creates=Creates(database),
        recent=Recent(),
        background=create_background(settings, database, storage, sender) if with_background else None,
    )


def _register_bases(database: Database, settings: Settings) -> None:
    try:
        with database.begin() as session:
            catalog.register(session, settings)
    except Unavailable as error:  # /readyz says so, too, and the janitor registers them later
        log.warning("database_is_away", error=error.message)


_settings = load_settings()
app = create_app(_settings, with_dashboard=_settings.dashboard)
