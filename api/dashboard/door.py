"""The dashboard's outermost layer: who may come in, from where, and what a page may load and do.

Sign-in by key or by a link that is good once. The browser keeps a session's token in a cookie that scripts cannot
read; nothing of it is in a URL or in a page. A page is built for a session that the API has just confirmed.
"""

from __future__ import annotations

import secrets
import time
from http.cookies import CookieError, SimpleCookie
from typing import cast
from urllib.parse import quote, urlsplit

import httpx
from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.dashboard import sign_in_page
from api.dashboard.relay import relay_download, relay_upload
from api.dashboard.rest import Refused, Rest, SignedOut
from api.dashboard.visit import KEY, Visit

COOKIE = "attune_session"
THEME_COOKIE = "attune_theme"
THEMES = ("auto", "light", "dark")
SIGN_IN = "/sign-in"
OPEN = (SIGN_IN, "/enter", "/static/", "/_nicegui/")  # code and style, no data: anybody may load them
MAX_KEY_BYTES = 4096
# Vue compiles its templates in the browser, and NiceGUI's page has scripts of its own, marked with the nonce
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self' 'nonce-{nonce}' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
_REFERRER = "same-origin"  # with less, a form's request does not tell the site that it comes from
_SIGN_IN_POLICY = (
    "default-src 'none'; style-src 'self'; img-src data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


class Door:
    def __init__(self, app: ASGIApp, http: httpx.AsyncClient) -> None:
        self._app = app
        self._http = http

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        path = _path(scope)
        is_writing = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD")
        if is_writing and not _is_from_here(Headers(scope=scope)):
            await _refuse(scope, receive, send, 403, "This request came from another site.")
            return
        if scope["type"] == "http" and path in (SIGN_IN, "/enter", "/sign-out"):
            await (await self._sign_in_or_out(Request(scope, receive), path))(scope, receive, send)
            return
        token = _cookie(scope, COOKIE)
        if path.startswith(OPEN) and not path.startswith("/_nicegui/client/"):
            await self._app(scope, receive, _with_policy(send))
        elif token is None:
            await self._turn_away(scope, receive, send, "")
        elif scope["type"] == "websocket" or path.startswith("/_nicegui"):
            await self._app(scope, receive, send)
        elif path == "/files" and scope["method"] == "POST":
            await (await relay_upload(Request(scope, receive), Rest(self._http, _here(scope), token)))(
                scope, receive, send
            )
        elif path.startswith("/download/") and scope["method"] == "GET":
            await (await relay_download(Request(scope, receive), Rest(self._http, _here(scope), token), path))(
                scope, receive, send
            )
        else:
            await self._show_page(scope, receive, send, token)

    async def _show_page(self, scope: Scope, receive: Receive, send: Send, token: str) -> None:
        rest = Rest(self._http, _here(scope), token)
        try:
            session = await rest.get("/v1/attune/session")
        except SignedOut:
            await self._turn_away(scope, receive, send, "ended")
            return
        except Refused as refused:
            await _refuse(scope, receive, send, refused.status, refused.message)
            return
        theme = _cookie(scope, THEME_COOKIE) or "auto"
        scope.setdefault("state", {})[KEY] = Visit.of(rest, session, theme if theme in THEMES else "auto")
        await self._app(scope, receive, _with_policy(send))

    async def _turn_away(self, scope: Scope, receive: Receive, send: Send, reason: str) -> None:
        if scope["type"] == "websocket" or scope["method"] != "GET" or _path(scope).startswith("/_nicegui"):
            await _refuse(scope, receive, send, 401, "Sign in first.")
            return
        query = f"?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else ""
        wanted = quote(_path(scope) + query, safe="")
        answer = RedirectResponse(f"{_root(scope)}{SIGN_IN}?next={wanted}{'&ended=1' if reason else ''}", 303)
        await answer(scope, receive, send)

    async def _sign_in_or_out(self, request: Request, path: str) -> Response:
        scope = request.scope
        if path == "/sign-out" and request.method == "POST":
            return await self._sign_out(scope)
        if path == "/enter":
            return await self._open(scope, request.query_params.get("link", ""), "/")
        if request.method == "POST" and path == SIGN_IN:
            form = await _form(request)
            return await self._open(scope, form.get("key", ""), form.get("next", "/"))
        if request.method == "GET" and path == SIGN_IN:
            query = request.query_params
            note = "Your session has ended. Sign in again to go on." if "ended" in query else None
            return _sign_in_page(scope, query.get("next", "/"), note=note)
        return PlainTextResponse("Not found.", 404)

    async def _open(self, scope: Scope, credential: str, wanted: str) -> Response:
        """Exchange a key or a link's token for a session, and keep its token in the browser."""
        credential = credential.strip()
        if not credential.isascii() or not credential.isprintable() or not credential:
            return _sign_in_page(scope, wanted, problem="Paste a key: it begins with sk-attune-.")
        try:
            opened = await Rest(self._http, _here(scope), credential).post("/v1/attune/sessions")
        except Refused as refused:
            return _sign_in_page(scope, wanted, problem=refused.message)
        answer = RedirectResponse(_root(scope) + _local(wanted), 303)
        answer.set_cookie(
            COOKIE,
            opened["token"],
            max_age=max(1, int(opened["expires_at"] - time.time())),
            path=_root(scope) or "/",
            secure=_is_secure(scope),
            httponly=True,
            samesite="lax",
        )
        return answer

    async def _sign_out(self, scope: Scope) -> Response:
        token = _cookie(scope, COOKIE)
        answer = RedirectResponse(f"{_root(scope)}{SIGN_IN}", 303)
        answer.delete_cookie(COOKIE, path=_root(scope) or "/", secure=_is_secure(scope), httponly=True, samesite="lax")
        if token is not None:
            try:
                await Rest(self._http, _here(scope), token).delete("/v1/attune/session")
            except SignedOut:
                pass  # it was over already
            except Refused as refused:
                return PlainTextResponse(refused.message, refused.status)
        return answer


def _sign_in_page(scope: Scope, wanted: str, *, note: str | None = None, problem: str | None = None) -> Response:
    page = sign_in_page.render(_root(scope), _local(wanted), note=note, problem=problem)
    headers = {"content-security-policy": _SIGN_IN_POLICY, "cache-control": "no-store", "referrer-policy": _REFERRER}
    return Response(page, 401 if problem else 200, headers, "text/html; charset=utf-8")


async def _form(request: Request) -> dict[str, str]:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_KEY_BYTES:
            return {}
    return dict(QueryParams(body.decode("latin-1")))


def _with_policy(send: Send) -> Send:
    """Mark the page's own scripts with a nonce, and let no others run."""
    start: Message | None = None
    body = b""

    async def send_marked(message: Message) -> None:
        nonlocal start, body
        if message["type"] == "http.response.start" and "text/html" in Headers(raw=message["headers"]).get(
            "content-type", ""
        ):
            start = message  # held until the whole page is there
            return
        if start is None or message["type"] != "http.response.body":
            await send(message)
            return
        body += message.get("body", b"")
        if message.get("more_body", False):
            return
        nonce = secrets.token_urlsafe(16)
        # NiceGUI escapes "<" in whatever a page shows, so that every tag here is the template's
        marked = body.replace(b"<script", f'<script nonce="{nonce}"'.encode())
        headers = MutableHeaders(raw=cast(list[tuple[bytes, bytes]], start["headers"]))
        headers["content-security-policy"] = _PAGE_POLICY.format(nonce=nonce)
        headers["referrer-policy"] = _REFERRER
        headers["content-length"] = str(len(marked))
        await send({**start, "headers": headers.raw})
        await send({"type": "http.response.body", "body": marked})

    return send_marked


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, text: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": text})
        return
    await PlainTextResponse(text, status)(scope, receive, send)


def _is_from_here(headers: Headers) -> bool:
    """Browsers name the site that a writing request, or a socket, was opened from."""
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc == headers.get("host")


def _cookie(scope: Scope, name: str) -> str | None:
    cookies = SimpleCookie()
    try:
        cookies.load(Headers(scope=scope).get("cookie", ""))
    except CookieError:
        return None
    return cookies[name].value if name in cookies else None


def _root(scope: Scope) -> str:
    return str(scope.get("root_path", ""))


def _path(scope: Scope) -> str:
    return str(scope["path"]).removeprefix(_root(scope)) or "/"


def _here(scope: Scope) -> str:
    """This service's own address, as this very request reached it."""
    host, port = scope["server"]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _is_secure(scope: Scope) -> bool:
    return scope.get("scheme") == "https" or Headers(scope=scope).get("x-forwarded-proto") == "https"


def _local(wanted: str) -> str:
    """A path of the dashboard, whatever was asked for: nobody is sent elsewhere after signing in."""
    parts = urlsplit(wanted)
    if parts.scheme or parts.netloc or not wanted.startswith("/") or wanted.startswith(("//", "/\\", "/sign-")):
        return "/"
    return wanted if wanted.isprintable() else "/"
