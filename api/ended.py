"""Ended jobs as they were written last: nothing of theirs that is shown changes any more, and lists are full of them.

Read, built and written anew each time, they are most of what a list costs.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable

from api.job_object import JobList, show_job
from core.models import TERMINAL, Job

MOST = 2000  # of some three kilobytes each


class Ended:
    """One instance a process, shared by its threads. Whoever asks has found out whose jobs they are."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._written: OrderedDict[str, str] = OrderedDict()

    def known(self, job_ids: Iterable[str]) -> dict[str, str]:
        """The objects of those that are held, by id."""
        with self._lock:
            found = {job_id: self._written[job_id] for job_id in job_ids if job_id in self._written}
            for job_id in found:
                self._written.move_to_end(job_id)
        return found

    def write(self, jobs: Iterable[Job]) -> dict[str, str]:
        """The objects of `jobs`, by id; those of ended ones are held from now on."""
        written = {job.id: (show_job(job).model_dump_json(), job.status in TERMINAL) for job in jobs}
        with self._lock:
            self._written.update((job_id, text) for job_id, (text, is_ended) in written.items() if is_ended)
            while len(self._written) > MOST:
                self._written.popitem(last=False)
        return {job_id: text for job_id, (text, _) in written.items()}


def listed(texts: Iterable[str], *, has_more: bool) -> bytes:
    """The list of objects that are written already."""
    head, tail = JobList(data=[], has_more=has_more).model_dump_json().split("[]")
    return f"{head}[{','.join(texts)}]{tail}".encode()
