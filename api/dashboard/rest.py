"""The dashboard's way to the service: the public REST API, with the token of whoever looks at the page.

Answers are JSON objects as the API's description has them; a refusal is raised with the API's own words.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast
from urllib.parse import quote

import httpx

Json: TypeAlias = dict[str, Any]
TIMEOUT_S = 30.0
UPLOAD_TIMEOUT_S = 600.0
STREAM_SILENCE_S = 60.0  # the API says "still here" more often
GENERATION_SILENCE_S = 300.0  # a base that has to be loaded first takes its time
GONE = "The service cannot be reached. It may be starting again; nothing of yours is lost."


class Refused(Exception):
    """What the API answered instead: `message` is for people, `param` names the field at fault."""

    def __init__(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param


class SignedOut(Refused):
    """The session is over, or its key was revoked."""


@dataclass(frozen=True)
class StreamEvent:
    """One server-sent event; `id` is where to go on after it."""

    id: str
    data: Json


def in_path(text: str) -> str:
    """An id as a part of a path; a model's id may hold slashes."""
    return quote(text, safe=":")


class Rest:
    """`address`: of this very service, without /v1. `token`: a session's, or a key."""

    def __init__(self, http: httpx.AsyncClient, address: str, token: str) -> None:
        self._http = http
        self._address = address
        self._token = token

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}"}

    def url(self, path: str) -> str:
        return f"{self._address}{path}"

    async def get(self, path: str, **query: str | int | float | None) -> Json:
        params = {name: value for name, value in query.items() if value is not None}
        return await self._call("GET", path, params=params)

    async def post(self, path: str, body: Mapping[str, object] | None = None) -> Json:
        return await self._call("POST", path, json=None if body is None else dict(body))

    async def patch(self, path: str, body: Mapping[str, object]) -> Json:
        return await self._call("PATCH", path, json=dict(body))

    async def delete(self, path: str) -> Json:
        return await self._call("DELETE", path)

    async def text(self, path: str, **query: str | int) -> str:
        return (await self._send("GET", path, params=query)).text

    async def upload(self, name: str, content: bytes, purpose: str) -> Json:
        files = {"file": (name, content)}
        return await self._call("POST", "/v1/files", data={"purpose": purpose}, files=files, timeout=UPLOAD_TIMEOUT_S)

    async def every(self, path: str, *, limit: int = 100, most: int = 10_000, **query: str) -> list[Json]:
        """All objects of a paged list, in its order, and no more than `most`."""
        found: list[Json] = []
        after: str | None = None
        while True:
            page = await self.get(path, limit=limit, after=after, **query)
            data = cast(list[Json], page["data"])
            found += data
            if not page.get("has_more") or not data or len(found) >= most:
                return found[:most]
            after = str(data[-1]["id"])

    async def events(self, job_id: str, after: str | None) -> AsyncGenerator[StreamEvent]:
        """A job's events as they are written, until the job is over. Ends early when the connection breaks."""
        path = f"/v1/attune/fine_tuning/jobs/{in_path(job_id)}/stream"
        headers = {**self.headers, **({} if after is None else {"Last-Event-ID": after})}
        timeout = httpx.Timeout(TIMEOUT_S, read=STREAM_SILENCE_S)
        try:
            async with self._http.stream("GET", self.url(path), headers=headers, timeout=timeout) as answer:
                if answer.status_code >= 400:
                    await answer.aread()
                    raise _refusal(answer)
                event_id = ""
                async for line in answer.aiter_lines():
                    if line.startswith("id: "):
                        event_id = line[4:]
                    elif line.startswith("data: "):
                        yield StreamEvent(event_id, json.loads(line[6:]))
        except httpx.TransportError:
            return

    async def chat(self, body: Mapping[str, object]) -> AsyncGenerator[Json]:
        """The chunks of a completion as they are generated. Whoever stops reading ends the generation."""
        timeout = httpx.Timeout(TIMEOUT_S, read=GENERATION_SILENCE_S)
        asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
        url = self.url("/v1/chat/completions")
        try:
            async with self._http.stream("POST", url, headers=self.headers, json=asked, timeout=timeout) as answer:
                if answer.status_code >= 400:
                    await answer.aread()
                    raise _refusal(answer)
                async for line in answer.aiter_lines():
                    if line.startswith("data: ") and line != "data: [DONE]":
                        chunk = cast(Json, json.loads(line[6:]))
                        if "error" in chunk:
                            raise Refused(answer.status_code, str(chunk["error"]["message"]))
                        yield chunk
        except httpx.TransportError as error:
            raise Refused(503, "The answer broke off. Send it again.", code="unreachable") from error

    async def beginning(self, path: str, most_bytes: int) -> bytes:
        """The first bytes of an object, and no more of it."""
        headers = self.headers | {"Range": f"bytes=0-{most_bytes - 1}", "Accept-Encoding": "identity"}
        try:
            answer = await self._http.get(self.url(path), headers=headers, timeout=TIMEOUT_S)
        except httpx.TransportError as error:
            raise Refused(503, GONE, code="unreachable") from error
        if answer.status_code == 416:
            return b""  # of nothing
        if answer.status_code >= 400:
            raise _refusal(answer)
        return answer.content

    async def _call(self, method: str, path: str, **options: Any) -> Json:
        return cast(Json, (await self._send(method, path, **options)).json())

    async def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        options.setdefault("timeout", TIMEOUT_S)
        try:
            answer = await self._http.request(method, self.url(path), headers=self.headers, **options)
        except httpx.TransportError as error:
            raise Refused(503, GONE, code="unreachable") from error
        if answer.status_code >= 400:
            raise _refusal(answer)
        return answer


def _refusal(answer: httpx.Response) -> Refused:
    try:
        error = answer.json()["error"]
        message, code, param = str(error["message"]), error.get("code"), error.get("param")
    except (ValueError, KeyError, TypeError):
        message, code, param = f"The service answered with HTTP {answer.status_code}.", None, None
    kind = SignedOut if answer.status_code == 401 else Refused
    return kind(answer.status_code, message, code=code, param=param)
