"""A deployment to put load on: Postgres that waits for its disk, Redis, an S3 server, and the parts of `attune up`.

Every part and the generator are processes of their own. Rows that a load begins with are written as rows: a million
jobs by the API would be another measurement.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from sqlalchemy import JSON, BigInteger, ColumnElement, Text, cast, insert, literal, select, text, true
from sqlalchemy.types import TypeEngine

from cli.supervisor import Program
from cli.up import Parts, preparations, services
from core.db import Database, open_database
from core.models import Job
from core.settings import Settings
from tests.live import BASE, ROOT
from tests.load.generator import Plan, encode
from tests.services import free_port, port_answers, postgres, program, redis, s3

PREPARED_S = 60.0
EXAMPLES = 24
LABEL = "loaded"  # of jobs that no worker of the deployment takes
# What a job's row holds before it is first claimed
UNCLAIMED: dict[str, Any] = {
    "status": "queued",
    **dict.fromkeys(("lease_until", "worker_id", "started_at", "attempt_started_at", "finished_at", "execution")),
    **dict.fromkeys(("fine_tuned_model", "report", "trained_tokens", "template_hash", "swept_at")),
    **dict.fromkeys(("attempt", "reported_step", "snapshot_step"), 0),
    "spent_s": 0.0,
    "result_files": [],
    "log_keys": [],
}


@dataclass
class Deployment:
    """Made by `deployment`. `webs`: addresses, one for each web process."""

    settings: Settings
    key: str
    folder: Path
    webs: list[str] = field(default_factory=list[str])
    processes: list[psutil.Process] = field(default_factory=list[psutil.Process])  # of the web sides

    @property
    def address(self) -> str:
        return self.webs[0]

    @property
    def web(self) -> psutil.Process:
        return self.processes[0]

    def http(self, key: str | None = None) -> httpx.Client:
        headers = {"Authorization": f"Bearer {key or self.key}"}
        return httpx.Client(base_url=self.address, headers=headers, timeout=60, trust_env=False)

    @contextmanager
    def database(self) -> Iterator[Database]:
        database = open_database(self.settings.resolved_database_url)
        try:
            yield database
        finally:
            database.close()

    def tenant(self, name: str, **limits: int) -> tuple[str, str]:
        """(id, a key) of a new project."""
        with self.http() as http:
            project = http.post("/v1/attune/projects", json={"name": name}).raise_for_status().json()["id"]
            if limits:
                http.post(f"/v1/attune/projects/{project}", json=limits).raise_for_status()
            made = http.post("/v1/attune/keys", json={"name": name, "project_id": project}).raise_for_status()
        return project, made.json()["key"]

    def file(self, key: str) -> str:
        """A small training file of the key's project."""
        turns = ({"role": "user", "content": "When does {n} come?"}, {"role": "assistant", "content": "today"})
        row = json.dumps({"messages": turns}) + "\n"
        data = "".join(row.replace("{n}", f"order {n}") for n in range(EXAMPLES)).encode()
        with self.http(key) as http:
            made = http.post("/v1/files", files={"file": ("orders.jsonl", data)}, data={"purpose": "fine-tune"})
        return made.raise_for_status().json()["id"]

    def prepared_job(self, key: str, file_id: str) -> str:
        """A queued job of one optimizer step."""
        body = job_body(file_id)
        with self.http(key) as http:
            job_id = http.post("/v1/fine_tuning/jobs", json=body).raise_for_status().json()["id"]
            deadline = time.monotonic() + PREPARED_S
            while (job := http.get(f"/v1/fine_tuning/jobs/{job_id}").json())["status"] == "validating_files":
                assert time.monotonic() < deadline, "the job was not prepared in time"
                time.sleep(0.05)
        assert job["status"] in ("queued", "running", "succeeded"), job
        return job_id

    def copies(self, job_id: str, number: int, **columns: Any) -> list[str]:
        """Copies of a job's row without its events, with other `columns`; returns their ids."""
        salt = os.urandom(8).hex()
        n = select(literal(1, BigInteger).label("n")).cte("numbers", recursive=True)
        n = n.union_all(select(n.c.n + 1).where(n.c.n < number))
        picked = [
            _typed(columns[column.name], column.type) if column.name in columns else column
            for column in Job.__table__.columns
        ]
        own = {
            "id": literal(f"ftjob-{salt}") + cast(n.c.n, Text),
            "created_at": Job.created_at - n.c.n * 0.001,
            "event_seq": literal(0, BigInteger),
        }
        names = [column.name for column in Job.__table__.columns]
        copied = [own.get(name, one) for name, one in zip(names, picked, strict=True)]
        rows = select(*copied).select_from(Job).join(n, true()).where(Job.id == job_id)
        copy = insert(Job.__table__).from_select(names, rows, include_defaults=False)
        with self.database() as database, database.begin() as session:
            session.execute(copy)
            session.execute(text("ANALYZE jobs"))  # as the database itself does within a minute
        return [f"ftjob-{salt}{number}" for number in range(1, number + 1)]


def _typed(value: Any, kind: TypeEngine[Any]) -> ColumnElement[Any]:
    # SQLite would make a number of what is cast to JSON, and Postgres a text of a null that is not cast
    return literal(value, kind) if isinstance(kind, JSON) and value is not None else cast(value, kind)


def mine(project: str) -> dict[str, Any]:
    """Columns of queued jobs of the project, for the measuring process to claim."""
    return {**UNCLAIMED, "project_id": project, "label": LABEL, "priority": 9}


def job_body(file_id: str) -> dict[str, Any]:
    hyperparameters = {"n_epochs": 1, "batch_size": EXAMPLES}
    return {
        "model": BASE,
        "training_file": file_id,
        "seed": 1,
        "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
    }


def environment(settings: Settings, own: dict[str, str]) -> dict[str, str]:
    """The program's own, with every setting that is not a default."""
    ours = {f"ATTUNE_{name.upper()}": str(getattr(settings, name)) for name in settings.model_fields_set}
    return {**ours, **own, "OMP_NUM_THREADS": "1"}


@contextmanager
def deployment(
    folder: Path,
    base: Path,
    *,
    webs: int = 1,
    workers: int = 0,
    with_s3: bool = False,
    embedded: bool = False,
    **values: Any,
) -> Iterator[Deployment]:
    """Run it until the block ends; `base` is copied. `embedded`: SQLite, a folder and the file broker."""
    with ExitStack() as stack:
        places: dict[str, Any] = {"data_dir": folder / "data", "port": free_port(), "log_level": "warning", **values}
        if not embedded:
            server = stack.enter_context(postgres(durable=True))
            places["database_url"] = server.url(server.create_database())
            places["broker_url"] = stack.enter_context(redis()).url()
        if with_s3 and not embedded:
            store = stack.enter_context(s3())
            for name, value in store.settings(store.create_bucket()).items():
                places[name.removeprefix("ATTUNE_").lower()] = value
        settings = Settings(dashboard=False, webhook_allow="127.0.0.1", engine_module="tests.faults.fake_engine",
                            **places)  # fmt: skip
        shutil.copytree(base, folder / "data" / "models" / BASE)
        for step in preparations(settings):
            own = environment(settings, dict(step.environment))
            subprocess.run(step.command, env=own, cwd=step.folder, check=True, capture_output=True)
        made = Deployment(settings, settings.resolved_operator_key_file.read_text().strip(), folder)
        for number in range(webs):
            one = settings.model_copy(update={"port": settings.port if number == 0 else free_port()})
            web = next(part for part in services(one, Parts(0, serve=False)) if part.name == "web")
            made.processes.append(stack.enter_context(_running(web, one, folder / f"web-{number}.log")))
            made.webs.append(f"http://127.0.0.1:{one.port}")
        for worker in services(settings, Parts(workers, serve=False)):
            if worker.name != "web":
                stack.enter_context(_running(worker, settings, folder / f"{worker.name}.log"))
        yield made


@contextmanager
def _running(part: Program, settings: Settings, log: Path) -> Iterator[psutil.Process]:
    own = environment(settings, dict(part.environment))

    def ready() -> bool:
        if part.name != "web":
            return True
        with suppress(httpx.TransportError):
            address = f"http://127.0.0.1:{settings.port}/readyz"
            return port_answers(settings.port) and httpx.get(address, trust_env=False).status_code == httpx.codes.OK
        return False

    with program(part.command, log=log, ready=ready, env=own, cwd=part.folder) as process:
        yield psutil.Process(process.pid)


def generated(plan: Plan) -> dict[str, Any]:
    """What a generator of its own process reports of a plan."""
    return piped("tests.load.generator", encode(plan))


def piped(module: str, given: bytes, arguments: Sequence[str] = ()) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], input=given, stdout=subprocess.PIPE, check=True, cwd=ROOT
    )
    return json.loads(done.stdout)
