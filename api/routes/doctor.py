"""/v1/attune, the dataset doctor's long work: conversions, reports, repairs and splits, tasks of one shape.

It runs beside the requests (core.doctor.work). A kind's own is what it may be asked for; the rest is the same for all.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from api.parts import Caller, Parts, Within
from api.shapes.doctor_objects import Task, TaskList, show_task
from api.shapes.doctor_requests import ConversionCreate, Order, RepairCreate, ReportCreate, Request, SplitCreate
from api.shapes.wire import ends
from core.doctor import tasks as doctor_tasks
from core.doctor import work as doctor_work
from core.doctor.models import TaskKind
from core.errors import AttuneError
from core.files import files
from core.files.files import FINE_TUNE
from core.models import File

router = APIRouter(prefix="/v1/attune", tags=["doctor"])
SOURCES = (FINE_TUNE, "user_data")

After = Annotated[str | None, Query(max_length=128)]
Limit = Annotated[int, Query(ge=1, le=100)]
OfFile = Annotated[str | None, Query(max_length=128)]


def _create(parts: Parts, project_id: str, kind: TaskKind, request: Request) -> Task:
    named = {"file_id": request["file_id"], "validation_file_id": request.get("validation_file_id")}
    with parts.database.begin() as session:
        for param, file_id in named.items():
            if file_id is not None:
                check_purpose(files.get(session, project_id, file_id, param=param), param)
        if request.get("model") is not None:
            doctor_work.base_of(session, project_id, request["model"])
        row = doctor_tasks.create(session, project_id, kind, request["file_id"], request)
    parts.poke()
    return show_task(row)


def check_purpose(row: File, param: str) -> None:
    if row.purpose not in SOURCES:
        raise AttuneError(
            f"File {row.id} has the purpose '{row.purpose}'; give one of the purpose {' or '.join(SOURCES)}.",
            code="invalid_file_purpose",
            param=param,
        )


def _offer(kind: TaskKind, orders: type[Order]) -> None:
    """The three routes of a kind: make a task, list them, look one up."""

    def create_task(body: Order, caller: Caller, parts: Within) -> Task:
        return _create(parts, caller.project_id, kind, body.request())

    create_task.__annotations__["body"] = orders  # where FastAPI reads what a body may hold

    def list_tasks(
        caller: Caller, parts: Within, file_id: OfFile = None, after: After = None, limit: Limit = 20
    ) -> TaskList:
        with parts.database.read() as session:
            rows, has_more = doctor_tasks.page(
                session, caller.project_id, kind, file_id=file_id, after=after, limit=limit
            )
        data = [show_task(row) for row in rows]
        return TaskList(data=data, **ends(data), has_more=has_more)

    def retrieve_task(caller: Caller, parts: Within, task_id: str = Path(alias=f"{kind}_id")) -> Task:
        with parts.database.read() as session:
            return show_task(doctor_tasks.get(session, caller.project_id, kind, task_id))

    path = f"/{kind}s"
    router.add_api_route(path, create_task, methods=["POST"], name=f"create_{kind}")
    router.add_api_route(path, list_tasks, methods=["GET"], name=f"list_{kind}s")
    router.add_api_route(f"{path}/{{{kind}_id}}", retrieve_task, methods=["GET"], name=f"retrieve_{kind}")


_offer(TaskKind.CONVERSION, ConversionCreate)
_offer(TaskKind.REPORT, ReportCreate)
_offer(TaskKind.REPAIR, RepairCreate)
_offer(TaskKind.SPLIT, SplitCreate)
