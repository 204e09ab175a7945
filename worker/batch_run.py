"""Answers the lines of one batch under its claim: a few at a time, recorded in their order, resumable at any line.

A line is asked of a generation server over HTTP, as the web side asks it (core.serving.completions). So the answer is
the one that the request itself would get; the servers alone put weights on a device, and a worker that trains beside
it needs no room for them.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import httpx
import structlog
from pydantic import ValidationError

from core import ids
from core.batches import claims as batch_claims
from core.batches.claims import Answers, BatchClaim
from core.batches.finish import output_line
from core.batches.input import BatchRequest, requests
from core.db import Database
from core.errors import AttuneError, Unavailable, envelope
from core.invalid import invalid
from core.jobs.claims import Flags
from core.jobs.holding import Holding
from core.serving import completions
from core.serving.completions import Candidates, CompletionRequest
from core.store.storage import Storage
from worker.attempt import LeaseLost, Place

log = structlog.get_logger()
LINES_AT_ONCE = 4  # a server gives every request a step in turn, so that more would only slow down those who wait
FLUSH_S = 2.0  # what a kill costs: answers not yet recorded are asked for again
FLUSH_BYTES = 1024 * 1024
LOOK_S = 0.2
MAX_WAIT_S = 5.0  # between two tries; less than a turn on a shared device is kept for who asks
MAX_TRIES = 3  # of a line on which servers break

Stop = Literal["cancelled", "over_time", "drained", "turn_over"]


class NotExecuted(Exception):
    """The batch stops while this line waits for a server."""


@dataclass(frozen=True)
class Answered:
    """A line with its answer. `text`: as it stands in the output or error file."""

    line: int
    is_good: bool
    text: bytes
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass
class _Part:
    """Answers that are not yet recorded."""

    first_line: int
    answered: list[Answered] = field(default_factory=list)
    begun_at: float = field(default_factory=time.monotonic)
    bytes: int = 0

    def add(self, one: Answered) -> None:
        self.answered.append(one)
        self.bytes += len(one.text)

    @property
    def is_due(self) -> bool:
        late = time.monotonic() - self.begun_at > FLUSH_S
        return bool(self.answered) and (late or self.bytes > FLUSH_BYTES)


class BatchRun:
    """`answer` works on the lines after the last recorded one, until all are answered or something stops it."""

    def __init__(self, place: Place, claim: BatchClaim, holding: Holding, input_path: Path, token: str) -> None:
        self._place = place
        self._database: Database = place.database
        self._storage: Storage = place.storage
        self._claim = claim
        self._batch = claim.batch
        self._holding = holding
        self._input_path = input_path
        self._token = token
        self._part = _Part(self._batch.answered + 1)
        self._others_asked_at = self._begun_at = time.monotonic()

    async def answer(self) -> Stop | None:
        """None: every line is answered. Raises LeaseLost, and Unavailable when a part is away."""
        async with completions.open_client() as http:
            ahead: deque[asyncio.Task[Answered]] = deque()
            try:
                return await self._answer(http, ahead)
            finally:
                for task in ahead:
                    task.cancel()
                await asyncio.gather(*ahead, return_exceptions=True)

    async def _answer(self, http: httpx.AsyncClient, ahead: deque[asyncio.Task[Answered]]) -> Stop | None:
        lines = requests(self._input_path, self._batch.answered, self._place.settings.max_line_bytes)
        while True:
            why = await self._stop()
            while why is None and len(ahead) < LINES_AT_ONCE and (line := next(lines, None)) is not None:
                ahead.append(asyncio.create_task(self._line(http, line)))
            if not ahead or why == "drained":
                await self._flush()
                return why
            await asyncio.wait({ahead[0]}, timeout=LOOK_S)
            if ahead[0].done():
                try:
                    self._part.add(ahead.popleft().result())
                except NotExecuted:
                    await self._flush()
                    return why or await self._stop()
            if self._part.is_due:
                await self._flush()

    def _flags_stop(self) -> Stop | None:
        if self._holding.lost.is_set():
            raise LeaseLost
        flags = self._holding.flags
        if flags.cancel:
            return "cancelled"
        if flags.over_time:
            return "over_time"
        return "drained" if self._place.draining() else None

    async def _stop(self) -> Stop | None:
        """Why no further line should begin. What is under way is let end, unless the worker ends."""
        why = self._flags_stop()
        now = time.monotonic()
        if why is None and now - self._begun_at > batch_claims.TURN_S and now - self._others_asked_at > MAX_WAIT_S:
            self._others_asked_at = now
            return "turn_over" if await asyncio.to_thread(self._others_wait) else None
        return why

    def _others_wait(self) -> bool:
        with self._database.read() as session:
            return batch_claims.any_waiting(session)

    # One line

    async def _line(self, http: httpx.AsyncClient, request: BatchRequest) -> Answered:
        try:
            asked = _checked(self._batch.endpoint, request)
            candidates = await asyncio.to_thread(self._candidates, asked.model)
        except AttuneError as error:
            if isinstance(error, Unavailable):
                raise
            return self._shown(request, error.status, envelope(error))
        status, body = await self._ask(http, candidates, asked)
        return self._shown(request, status, body)

    def _candidates(self, name: str) -> Candidates:
        with self._database.read() as session:
            return completions.candidates(session, self._batch.project_id, name)

    async def _ask(
        self, http: httpx.AsyncClient, candidates: Candidates, asked: CompletionRequest
    ) -> tuple[int, object]:
        """(status, body) of the answer. Waits while no server has room; raises NotExecuted when the batch stops."""
        tries = 0
        while True:
            try:
                status, body, wait_s = await self._ask_once(http, candidates, asked)
            except Unavailable as error:
                status, body, wait_s = error.status, envelope(error), error.retry_after_s or MAX_WAIT_S
                tries += error.code == "server_failed"
            busy = status in (429, 503)
            tries += status >= 500 and not busy
            if (status < 500 and not busy) or tries >= MAX_TRIES:
                return status, body
            await self._pause(wait_s)
            candidates = await asyncio.to_thread(self._candidates, asked.model)

    async def _ask_once(
        self, http: httpx.AsyncClient, candidates: Candidates, asked: CompletionRequest
    ) -> tuple[int, object, float]:
        answer = await completions.ask(http, candidates, self._batch.endpoint, asked, self._token)
        try:
            raw = await answer.aread()
        except httpx.TransportError as error:
            raise completions.broken_off() from error
        finally:
            await answer.aclose()
        try:
            body: object = json.loads(raw)
        except ValueError:
            raise completions.broken_off() from None
        if isinstance(body, dict) and "model" in body:
            body["model"] = asked.model  # the name that the line gave, as a single request is answered
        given = answer.headers.get("retry-after", "")
        return answer.status_code, body, float(given) if given.isdecimal() else 1.0

    async def _pause(self, wait_s: float) -> None:
        until = time.monotonic() + min(wait_s, MAX_WAIT_S)
        while (left := until - time.monotonic()) > 0:
            if self._flags_stop() is not None:
                raise NotExecuted
            await asyncio.sleep(min(left, LOOK_S))

    def _shown(self, request: BatchRequest, status: int, body: object) -> Answered:
        response = {"status_code": status, "request_id": f"req_{ids.random_text(24)}", "body": body}
        text = output_line(self._batch, request.line, request.custom_id, response)
        is_good = 200 <= status < 300
        usage = body.get("usage") if is_good and isinstance(body, dict) else None
        counts = usage if isinstance(usage, dict) else {}
        tokens = (int(counts.get("prompt_tokens") or 0), int(counts.get("completion_tokens") or 0))
        return Answered(request.line, is_good, text, *tokens)

    # Recording

    async def _flush(self) -> None:
        if self._part.answered:
            part, self._part = self._part, _Part(self._part.answered[-1].line + 1)
            await asyncio.to_thread(self._record, part)

    def _record(self, part: _Part) -> None:
        """Store the answers, then name them: a line is done when its part has a row. Raises LeaseLost."""
        good = [one.text for one in part.answered if one.is_good]
        bad = [one.text for one in part.answered if not one.is_good]
        answers = Answers(
            first_line=part.first_line,
            completed=len(good),
            failed=len(bad),
            input_tokens=sum(one.input_tokens for one in part.answered),
            output_tokens=sum(one.output_tokens for one in part.answered),
            output_key=self._stored(part.first_line, "output", good),
            error_key=self._stored(part.first_line, "errors", bad),
        )
        with self._database.begin() as session:
            flags: Flags | None = batch_claims.record(session, self._claim, answers)
        if not self._holding.seen(flags):
            raise LeaseLost

    def _stored(self, first_line: int, name: str, lines: list[bytes]) -> str | None:
        if not lines:
            return None
        key = f"{self._claim.prefix}/lines-{first_line}-{name}.jsonl"
        self._storage.put_bytes(key, b"".join(lines))
        return key


def _checked(endpoint: str, request: BatchRequest) -> CompletionRequest:
    """The line as the web side would take it. Raises AttuneError."""
    if request.body.get("stream"):
        raise AttuneError(
            "stream: the answers of a batch are written to a file; leave stream out.",
            code="unsupported_value",
            param="stream",
        )
    try:
        return completions.REQUESTS[endpoint].model_validate(request.body)
    except ValidationError as error:
        found = [{**one, "loc": ("body", *one["loc"])} for one in error.errors(include_url=False)]
        raise invalid(found, request.body) from None
