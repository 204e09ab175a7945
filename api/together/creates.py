"""Jobs that are created at once are made in one transaction: one wait for the disk for all of them, and each answered
for itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from api.shapes.job_object import show_job
from api.together.together import Together
from core import crash_points, replay
from core.access import audit
from core.access.audit import Call
from core.db import Database, Session
from core.errors import AttuneError
from core.jobs import intake, jobs
from core.jobs.intake import Wanted
from core.models import Job
from core.replay import Asked


@dataclass(frozen=True, eq=False)
class Create:
    """One request. Two that are equal are meant as two, so none is equal to another."""

    wanted: Wanted
    asked: Asked
    done: Callable[[str], Call]  # what the audit log keeps of it, with the id of what it made


class Creates:
    """One instance a process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._together: Together[Create, str] = Together(self._make)

    async def job(self, project_id: str, create: Create) -> str:
        """The job's object in JSON: a new one's, or the one that an earlier arrival of the request has made.

        Raises AttuneError naming the field that stands in the way, or QuotaReached.
        """
        return await self._together.ask(project_id, create)

    def _make(self, project_id: str, creates: Sequence[Create]) -> dict[Create, str | Exception]:
        first, *later = _rounds(creates)
        answers = self._make_at_once(project_id, first)
        for several in later:
            try:
                answers |= self._make_at_once(project_id, several)
            except Exception as error:  # the first are made, and have to be told so
                answers |= dict.fromkeys(several, error)
        return answers

    def _make_at_once(self, project_id: str, creates: Sequence[Create]) -> dict[Create, str | Exception]:
        with self._database.begin(alone_at=[create.asked.chain for create in creates]) as session:
            found: dict[Create, Job | AttuneError] = {}
            for create in creates:
                if (earlier := replay.earlier(session, project_id, create.asked)) is not None:
                    found[create] = jobs.get(session, project_id, earlier)
            fresh = [create for create in creates if create not in found]
            accepted = intake.accept(session, project_id, [create.wanted for create in fresh])
            found |= zip(fresh, accepted, strict=True)
            _note(session, project_id, [(create, job) for create in fresh if isinstance(job := found[create], Job)])
            crash_points.here("create.written")
        crash_points.here("create.committed")
        return {
            create: show_job(one).model_dump_json() if isinstance(one, Job) else one for create, one in found.items()
        }


def _note(session: Session, project_id: str, made: Sequence[tuple[Create, Job]]) -> None:
    if made:
        replay.note(session, project_id, {job.id: create.asked for create, job in made})
        audit.record(session, [create.done(job.id) for create, job in made])


def _rounds(creates: Iterable[Create]) -> list[list[Create]]:
    """Arrivals of one request come after each other, or none would find what another has made."""
    rounds: list[dict[str, Create]] = [{}]
    for create in creates:
        free = next((one for one in rounds if create.asked.chain not in one), None)
        if free is None:
            rounds.append(free := {})
        free[create.asked.chain] = create
    return [list(one.values()) for one in rounds]
