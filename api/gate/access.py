"""Which scope a route demands of a key: the one table of it, read by `api.gate.auth` before anything of a request runs.

A route that is not in the table does not exist for a client, so that none can be forgotten open.
"""

from __future__ import annotations

from dataclasses import dataclass
from re import Pattern

from starlette.routing import compile_path

from api.errors import NotAllowed, unknown_url
from core.access.projects import Principal, Scope
from core.errors import AttuneError

Scopes = tuple[Scope, ...]  # one of them is enough
READ: Scopes = (Scope.READ,)
WRITE: Scopes = (Scope.WRITE,)
INFERENCE: Scopes = (Scope.INFERENCE,)
LOOK: Scopes = (Scope.READ, Scope.INFERENCE)  # whoever asks a model may see which there are
ADMIN: Scopes = (Scope.ADMIN,)
ANY: Scopes = tuple(Scope)  # whoever has a key
OPERATOR: Scopes = ()  # no scope of a project is enough

DEMANDS: dict[str, Scopes] = {
    "GET /v1/files": READ,
    "POST /v1/files": WRITE,
    "GET /v1/files/{file_id}": READ,
    "GET /v1/files/{file_id}/content": READ,
    "DELETE /v1/files/{file_id}": WRITE,
    "POST /v1/uploads": WRITE,
    "POST /v1/uploads/{upload_id}/parts": WRITE,
    "POST /v1/uploads/{upload_id}/complete": WRITE,
    "POST /v1/uploads/{upload_id}/cancel": WRITE,
    "GET /v1/webhook_endpoints": READ,
    "POST /v1/webhook_endpoints": WRITE,
    "GET /v1/webhook_event_types": READ,
    "GET /v1/webhook_endpoints/{webhook_endpoint_id}": READ,
    "POST /v1/webhook_endpoints/{webhook_endpoint_id}": WRITE,
    "DELETE /v1/webhook_endpoints/{webhook_endpoint_id}": WRITE,
    "POST /v1/webhook_endpoints/{webhook_endpoint_id}/rotate_secret": WRITE,
    "POST /v1/webhook_endpoints/{webhook_endpoint_id}/test": WRITE,
    "GET /v1/attune/webhook_endpoints": READ,
    "POST /v1/attune/webhook_endpoints": WRITE,
    "GET /v1/attune/webhook_event_types": READ,
    "GET /v1/attune/webhook_endpoints/{webhook_endpoint_id}": READ,
    "POST /v1/attune/webhook_endpoints/{webhook_endpoint_id}": WRITE,
    "DELETE /v1/attune/webhook_endpoints/{webhook_endpoint_id}": WRITE,
    "POST /v1/attune/webhook_endpoints/{webhook_endpoint_id}/rotate_secret": WRITE,
    "POST /v1/attune/webhook_endpoints/{webhook_endpoint_id}/test": WRITE,
    "GET /v1/attune/webhook_endpoints/{webhook_endpoint_id}/deliveries": READ,
    "POST /v1/attune/webhook_endpoints/{webhook_endpoint_id}/deliveries/{webhook_delivery_id}/redeliver": WRITE,
    "GET /v1/attune/fine_tuning/jobs/{fine_tuning_job_id}/stream": READ,
    "POST /v1/attune/fine_tuning/jobs/{fine_tuning_job_id}/embed_tokens": READ,
    "GET /v1/attune/projects/{project_id}": READ,
    "POST /v1/attune/projects/{project_id}": OPERATOR,
    "PATCH /v1/attune/projects/{project_id}": OPERATOR,
    "GET /v1/fine_tuning/jobs": READ,
    "POST /v1/fine_tuning/jobs": WRITE,
    "GET /v1/fine_tuning/jobs/{fine_tuning_job_id}": READ,
    "POST /v1/fine_tuning/jobs/{fine_tuning_job_id}/cancel": WRITE,
    "POST /v1/fine_tuning/jobs/{fine_tuning_job_id}/pause": WRITE,
    "POST /v1/fine_tuning/jobs/{fine_tuning_job_id}/resume": WRITE,
    "GET /v1/fine_tuning/jobs/{fine_tuning_job_id}/events": READ,
    "GET /v1/fine_tuning/jobs/{fine_tuning_job_id}/checkpoints": READ,
    "GET /v1/fine_tuning/checkpoints/{model:path}/permissions": ADMIN,
    "POST /v1/fine_tuning/checkpoints/{model:path}/permissions": ADMIN,
    "DELETE /v1/fine_tuning/checkpoints/{model:path}/permissions/{permission_id}": ADMIN,
    "GET /v1/models": LOOK,
    "GET /v1/models/{model:path}": LOOK,
    "DELETE /v1/models/{model:path}": WRITE,
    "POST /v1/chat/completions": INFERENCE,
    "GET /v1/chat/completions": INFERENCE,
    "GET /v1/chat/completions/{completion_id}": INFERENCE,
    "POST /v1/chat/completions/{completion_id}": INFERENCE,
    "DELETE /v1/chat/completions/{completion_id}": INFERENCE,
    "GET /v1/chat/completions/{completion_id}/messages": INFERENCE,
    "POST /v1/completions": INFERENCE,
    "POST /v1/embeddings": INFERENCE,
    "GET /v1/batches": LOOK,
    "POST /v1/batches": INFERENCE,
    "GET /v1/batches/{batch_id}": LOOK,
    "POST /v1/batches/{batch_id}/cancel": INFERENCE,
    "POST /v1/fine_tuning/alpha/graders/validate": INFERENCE,
    "POST /v1/fine_tuning/alpha/graders/run": INFERENCE,
    "GET /v1/attune/fine_tuning/jobs/{fine_tuning_job_id}/log": READ,
    "GET /v1/attune/aliases": LOOK,
    "POST /v1/attune/aliases": WRITE,
    "GET /v1/attune/aliases/{alias:path}": LOOK,
    "POST /v1/attune/aliases/{alias:path}": WRITE,
    "DELETE /v1/attune/aliases/{alias:path}": WRITE,
    "POST /v1/attune/plans": READ,
    "GET /v1/attune/models/{model:path}/download": READ,
    "GET /v1/attune/models/{model:path}/files/{path:path}": READ,
    "POST /v1/attune/conversions/preview": READ,
    "GET /v1/attune/conversions": READ,
    "POST /v1/attune/conversions": WRITE,
    "GET /v1/attune/conversions/{conversion_id}": READ,
    "GET /v1/attune/reports": READ,
    "POST /v1/attune/reports": WRITE,
    "GET /v1/attune/reports/{report_id}": READ,
    "GET /v1/attune/repairs": READ,
    "POST /v1/attune/repairs": WRITE,
    "GET /v1/attune/repairs/{repair_id}": READ,
    "GET /v1/attune/splits": READ,
    "POST /v1/attune/splits": WRITE,
    "GET /v1/attune/splits/{split_id}": READ,
    "GET /v1/attune/files/{file_id}/examples": READ,
    "GET /v1/attune/session": ANY,
    "DELETE /v1/attune/session": ANY,
    "POST /v1/attune/sessions": ANY,
    "POST /v1/attune/sign_in_links": ANY,
    "GET /v1/attune/sample_data/{part}": READ,
    "GET /v1/attune/keys": ADMIN,
    "POST /v1/attune/keys": ADMIN,
    "DELETE /v1/attune/keys/{key_id}": ADMIN,
    "GET /v1/attune/audit_log": ADMIN,
    "GET /v1/attune/base_models": LOOK,
    "POST /v1/attune/base_models": OPERATOR,
    "GET /v1/attune/base_models/{model:path}": LOOK,
    "DELETE /v1/attune/base_models/{model:path}": OPERATOR,
    "GET /v1/attune/projects": OPERATOR,
    "POST /v1/attune/projects": OPERATOR,
    "DELETE /v1/attune/projects/{project_id}": OPERATOR,
    "GET /v1/attune/workers": OPERATOR,
    "GET /v1/attune/servers": OPERATOR,
    "POST /v1/attune/servers": OPERATOR,
    "DELETE /v1/attune/servers/{server_id}": OPERATOR,
}

# What an embed token opens, each for its own job
EMBEDDED = (
    "/v1/fine_tuning/jobs/{fine_tuning_job_id}",
    "/v1/fine_tuning/jobs/{fine_tuning_job_id}/events",
    "/v1/fine_tuning/jobs/{fine_tuning_job_id}/checkpoints",
    "/v1/attune/fine_tuning/jobs/{fine_tuning_job_id}/stream",
)


@dataclass(frozen=True)
class Route:
    """A line of the table as a request meets it. `object_id`: the last id in its path."""

    method: str
    pattern: str
    scopes: Scopes
    object_id: str | None = None

    @property
    def may_change(self) -> bool:
        """Asking a model changes nothing, although it is a POST; a batch leaves files."""
        is_asking = self.scopes == INFERENCE and not self.pattern.startswith("/v1/batches")
        return self.method != "GET" and not is_asking


@dataclass(frozen=True)
class _Line:
    route: Route
    regex: Pattern[str]


def _line(name: str, scopes: Scopes) -> _Line:
    method, _, pattern = name.partition(" ")
    return _Line(Route(method, pattern, scopes), compile_path(pattern)[0])


_LINES = [_line(name, scopes) for name, scopes in DEMANDS.items()]
# A path that is listed as it stands, such as …/conversions/preview, is no id of the pattern beside it
_LISTED = {
    pattern: [line for line in _LINES if line.route.pattern == pattern]
    for pattern in {line.route.pattern for line in _LINES if "{" not in line.route.pattern}
}


def routes_of(method: str, path: str) -> list[Route]:
    """The lines that a request matches, longest pattern first. Raises the 404 or 405 of one that matches none."""
    allowed: list[str] = []
    found: list[Route] = []
    for line in _LISTED.get(path, _LINES):
        if (match := line.regex.match(path)) is None:
            continue
        if line.route.method == method:
            ids = list(match.groupdict().values())
            found.append(Route(method, line.route.pattern, line.route.scopes, ids[-1] if ids else None))
        else:
            allowed.append(line.route.method)
    if not found:
        raise NotAllowed(method, path, ", ".join(allowed)) if allowed else unknown_url(method, path)
    return sorted(found, key=lambda route: -len(route.pattern))


def check(principal: Principal, routes: list[Route]) -> None:
    """Raises the 403 of a key that may not. A model's id may hold slashes, so that a path can fit several lines:
    each is demanded, and none weakens another."""
    for route in routes:
        if principal.is_operator or not principal.scopes.isdisjoint(route.scopes):
            continue
        if route.scopes == OPERATOR:
            raise AttuneError(
                "This is for operators: use an operator's key (`attune keys create --operator`).",
                code="operator_required",
                status=403,
            )
        raise AttuneError(
            f"You have insufficient permissions for this operation. Missing scopes: {' or '.join(route.scopes)}. "
            f"This key has: {', '.join(sorted(principal.scopes))}. An admin of the project makes keys "
            "(`attune keys create --scope …`).",
            code="missing_scope",
            status=403,
        )


def check_embed(job_id: str, routes: list[Route]) -> None:
    """Raises the 403 of an embed token that asks for anything but its own job."""
    for route in routes:
        if route.method != "GET" or route.pattern not in EMBEDDED or route.object_id != job_id:
            message = f"This embed token shows the job {job_id} and nothing else; use a key."
            raise AttuneError(message, code="embed_only", status=403)
