"""Everyone who follows a job in this process: one task asks the database for all of them, and no one costs a thread.

The newest events of a followed job are held once, however many follow it; who is further behind reads by itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Generator, Iterable
from contextlib import contextmanager
from contextvars import Context

import structlog
from anyio import CapacityLimiter, to_thread

from api.shapes.job_object import show_event
from core.db import Database
from core.errors import AttuneError
from core.jobs import follow
from core.jobs.follow import Standing

POLL_S = 0.3
HEARTBEAT_S = 15.0  # proxies close a connection that is silent for a minute
HELD = 100  # newest events of a job
PAGE = 500  # events of one look
log = structlog.get_logger()
Numbered = tuple[int, str]  # seq, and the event as JSON: written once, sent to many


class _Channel:
    """What is known of one followed job."""

    def __init__(self, standing: Standing) -> None:
        self.listeners = 0
        self.seq = standing.seq  # of the newest event that this process has seen
        self.is_over = standing.is_over
        self.changed = asyncio.Event()
        self._newest: deque[Numbered] = deque(maxlen=HELD)

    def add(self, events: Iterable[Numbered]) -> None:
        for seq, event in events:
            if seq == self.seq + 1:
                self._newest.append((seq, event))
                self.seq = seq

    def wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    def since(self, seq: int) -> list[Numbered] | None:
        """The events after `seq`; None: they are no longer held."""
        if seq >= self.seq:
            return []
        first = self.seq - len(self._newest) + 1
        return [numbered for numbered in self._newest if numbered[0] > seq] if seq + 1 >= first else None


class Listeners:
    """One instance a process, used from its event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._channels: dict[str, _Channel] = {}
        self._poller: asyncio.Task[None] | None = None
        self._thread = CapacityLimiter(1)  # of their own: events do not stand in line behind requests
        self._is_ending = False

    def end(self) -> None:
        """The process is told to stop: those who listen come back to the next one, from the event they heard last."""
        self._is_ending = True
        for channel in self._channels.values():
            channel.wake()

    async def events(self, job_id: str, standing: Standing, after: int) -> AsyncGenerator[Numbered | None]:
        """The job's events after number `after`, as they come; None now and then while none comes.

        `standing`: as just read. Ends after the last event of a job that is over.
        """
        with self._listening(job_id, standing) as channel:
            while True:
                changed = channel.changed
                events = channel.since(after)
                if events is None:
                    events = await to_thread.run_sync(self._read, {job_id: after})
                    events = [(seq, event) for _, seq, event in events]
                for seq, event in events:
                    after = seq
                    yield seq, event
                if after < channel.seq and events:
                    continue
                if channel.is_over or self._is_ending:  # or erased with its project
                    return
                try:
                    async with asyncio.timeout(HEARTBEAT_S):
                        await changed.wait()
                except TimeoutError:
                    yield None

    @contextmanager
    def _listening(self, job_id: str, standing: Standing) -> Generator[_Channel]:
        channel = self._channels.setdefault(job_id, _Channel(standing))
        channel.listeners += 1
        if self._poller is None or self._poller.done():
            # in a context of its own: it asks for every listener, and not within the project of the first
            self._poller = asyncio.create_task(self._poll(), name="listeners", context=Context())
        try:
            yield channel
        finally:
            channel.listeners -= 1
            if channel.listeners == 0:
                del self._channels[job_id]

    def close(self) -> None:
        if self._poller is not None:
            self._poller.cancel()

    async def _poll(self) -> None:
        """Until nobody listens."""
        while self._channels:
            await asyncio.sleep(POLL_S)
            try:
                await self._look()
            except AttuneError as error:
                log.warning("listeners_not_told", error=error.message)
            except Exception:
                log.exception("listeners_broke")  # those who listen wait for the next look

    async def _look(self) -> None:
        followed = dict(self._channels)  # others may come while the database answers
        standings = await to_thread.run_sync(self._standings, list(followed), limiter=self._thread)
        behind: dict[str, int] = {}
        for job_id, channel in followed.items():
            standing = standings.get(job_id) or Standing(channel.seq, is_over=True)
            if standing.seq > channel.seq:
                behind[job_id] = channel.seq
            elif standing.is_over and not channel.is_over:
                channel.is_over = True
                channel.wake()
        if not behind:
            return
        rows = await to_thread.run_sync(self._read, behind, limiter=self._thread)
        for job_id in behind:
            channel, standing = followed[job_id], standings[job_id]
            channel.add((seq, event) for its_job, seq, event in rows if its_job == job_id)
            channel.is_over = standing.is_over and channel.seq >= standing.seq
            channel.wake()

    def _standings(self, job_ids: list[str]) -> dict[str, Standing]:
        with self._database.read() as session:
            return follow.standings(session, job_ids)

    def _read(self, last_seqs: dict[str, int]) -> list[tuple[str, int, str]]:
        with self._database.read() as session:
            rows = follow.events_since(session, last_seqs, PAGE)
        return [(row.job_id, row.seq, show_event(row).model_dump_json()) for row in rows]
