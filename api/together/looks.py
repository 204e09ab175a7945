"""The two looks that clients ask for again and again: a job, and a page of jobs.

Ended jobs are held as they were written last: nothing of theirs that is shown changes any more, and lists are full of
them. Read, built and written anew each time, they are most of what a list costs.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from api.shapes.job_object import JobList, show_job
from api.together.together import Together
from core.db import Database, Session
from core.errors import AttuneError
from core.jobs import jobs
from core.models import TERMINAL, Job

MOST_ENDED = 2000  # of some three kilobytes each


@dataclass(frozen=True)
class JobsPage:
    """Which page of a project's jobs is asked for."""

    after: str | None
    limit: int
    metadata: tuple[tuple[str, str], ...] = ()
    without_metadata: bool = False


class Looks:
    """One instance a process. Answers are JSON."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ended = _Ended()
        self._jobs: Together[str, str] = Together(self._find_jobs)
        self._pages: Together[JobsPage, bytes] = Together(self._find_pages)

    async def job(self, project_id: str, job_id: str) -> str:
        """Raises NotFound."""
        return await self._jobs.ask(project_id, job_id)

    async def jobs(self, project_id: str, page: JobsPage) -> bytes:
        """Raises the 400 of a cursor that is none of the project's."""
        return await self._pages.ask(project_id, page)

    def _find_jobs(self, project_id: str, job_ids: Sequence[str]) -> dict[str, str | AttuneError]:
        with self._database.read() as session:
            held, rows = self._held_and_rows(session, project_id, job_ids)
            there = jobs.there(session, project_id, held)
        texts = {job_id: held[job_id] for job_id in there} | self._ended.write(rows)
        return {job_id: texts.get(job_id) or jobs.not_found(job_id) for job_id in job_ids}

    def _find_pages(self, project_id: str, pages: Sequence[JobsPage]) -> dict[JobsPage, bytes | AttuneError]:
        with self._database.read() as session:
            found = {page: _page(session, project_id, page) for page in pages}
            job_ids = {job_id for one in found.values() if isinstance(one, tuple) for job_id in one[0]}
            held, rows = self._held_and_rows(session, project_id, job_ids)
        texts = held | self._ended.write(rows)
        return {page: one if isinstance(one, AttuneError) else _listed(*one, texts) for page, one in found.items()}

    def _held_and_rows(
        self, session: Session, project_id: str, job_ids: Collection[str]
    ) -> tuple[dict[str, str], Sequence[Job]]:
        """The objects of those that are held, by id, whosever they are; and the rows of the project's others."""
        held = self._ended.known(job_ids)
        return held, jobs.several(session, project_id, [job_id for job_id in job_ids if job_id not in held])


def _page(session: Session, project_id: str, page: JobsPage) -> tuple[list[str], bool] | AttuneError:
    try:
        return jobs.page(
            session,
            project_id,
            after=page.after,
            limit=page.limit,
            metadata=dict(page.metadata),
            without_metadata=page.without_metadata,
        )
    except AttuneError as error:
        return error


def _listed(job_ids: Iterable[str], has_more: bool, texts: dict[str, str]) -> bytes:
    head, tail = JobList(data=[], has_more=has_more).model_dump_json().split("[]")
    # one that has no text was erased with its project between the two looks
    return f"{head}[{','.join(texts[job_id] for job_id in job_ids if job_id in texts)}]{tail}".encode()


class _Ended:
    """Shared by threads. Whoever asks finds out whose jobs they are."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._written: OrderedDict[str, str] = OrderedDict()

    def known(self, job_ids: Collection[str]) -> dict[str, str]:
        """The objects of those that are held, by id."""
        with self._lock:
            found = {job_id: self._written[job_id] for job_id in job_ids if job_id in self._written}
            for job_id in found:
                self._written.move_to_end(job_id)
        return found

    def write(self, rows: Iterable[Job]) -> dict[str, str]:
        """The objects of `rows`, by id; those of ended ones are held from now on."""
        written = {job.id: (show_job(job).model_dump_json(), job.status in TERMINAL) for job in rows}
        with self._lock:
            self._written.update((job_id, text) for job_id, (text, is_ended) in written.items() if is_ended)
            while len(self._written) > MOST_ENDED:
                self._written.popitem(last=False)
        return {job_id: text for job_id, (text, _) in written.items()}
