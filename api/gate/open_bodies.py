"""How many uploads and streams are open at once: bounded for a project, and for all of them in this process.

Counted around the app, so that whatever ends an answer ends its count: its last byte, a client that vanished, a bug.
What is answered in a moment counts for nothing here; `api.gate.admission` sees to that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import cast

from starlette.types import ASGIApp, Receive, Scope, Send

from api.errors import error_response
from api.gate.access import Route
from api.gate.admission import PLACE, Place
from api.http_head import MAX_CONNECTIONS
from core.access.projects import Principal
from core.errors import AttuneError, Unavailable
from core.settings import Settings

# Each holds up to three parts of 8 MiB while it goes to a store
UPLOADS = frozenset({"POST /v1/files", "POST /v1/uploads/{upload_id}/parts"})
# What is followed, generated or downloaded: for as long as its client reads
STREAMS = frozenset(
    {
        "GET /v1/attune/fine_tuning/jobs/{fine_tuning_job_id}/stream",
        "POST /v1/chat/completions",
        "POST /v1/completions",
        "GET /v1/files/{file_id}/content",
        "GET /v1/attune/fine_tuning/jobs/{fine_tuning_job_id}/log",
        "GET /v1/attune/models/{model:path}/download",
        "GET /v1/attune/models/{model:path}/files/{path:path}",
    }
)
PROJECTS_AT_ONCE = 2  # that may have all their uploads open at the same time
STREAMS_SHARE = 0.75  # of the connections; the rest is for what is answered in a moment
RETRY_S = 5.0


class _Open:
    """What is open of one kind, by project."""

    def __init__(self, kind: str, of_project: int, setting: str) -> None:
        self._kind = kind
        self._of_project = of_project
        self._setting = setting
        self._open: Counter[str] = Counter()  # a project that has none has no line

    @contextmanager
    def one(self, project_id: str, in_all: int) -> Generator[None]:
        """Open for as long as the block runs. Raises the 429 or 503 of one too many."""
        if self._open[project_id] >= self._of_project:
            raise AttuneError(
                f"This project has {self._of_project} {self._kind} open at once, which is all it may "
                f"({self._setting}). Close some, or wait for one to end, and try again.",
                code=f"too_many_{self._kind}",
                status=429,
                type="requests",
                retry_after_s=RETRY_S,
            )
        if self._open.total() >= in_all:
            message = f"This server has {in_all} {self._kind} open at once; try again in a moment."
            raise Unavailable(message, code="overloaded", retry_after_s=RETRY_S)
        self._open[project_id] += 1
        try:
            yield
        finally:
            self._open[project_id] -= 1
            if not self._open[project_id]:
                del self._open[project_id]


class OpenBodies:
    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._max_uploads, self._max_connections = settings.max_uploads, settings.max_connections
        self._uploads = _Open("uploads", settings.max_uploads, "ATTUNE_MAX_UPLOADS")
        self._streams = _Open("streams", settings.max_streams, "ATTUNE_MAX_STREAMS")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = scope["state"].get("route") if scope["type"] == "http" else None
        name = f"{route.method} {route.pattern}" if isinstance(route, Route) else ""
        answer = self._app
        if (name in UPLOADS or name in STREAMS) and isinstance(place := scope["state"].get(PLACE), Place):
            place.leave()
        with ExitStack() as stack:
            try:
                if name in UPLOADS:
                    in_all = PROJECTS_AT_ONCE * self._max_uploads
                    stack.enter_context(self._uploads.one(_project_of(scope), in_all))
                elif name in STREAMS:
                    connections: int = scope["state"].get(MAX_CONNECTIONS, self._max_connections)
                    stack.enter_context(self._streams.one(_project_of(scope), int(STREAMS_SHARE * connections)))
            except AttuneError as error:
                answer = error_response(error)
            await answer(scope, receive, send)


def _project_of(scope: Scope) -> str:
    return cast(Principal, scope["state"]["principal"]).project_id
