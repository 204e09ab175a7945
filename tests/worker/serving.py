"""A generation server for tests: a real base and adapter, a real database and storage, the openai package."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvicorn
from openai import OpenAI
from openai.types.chat import ChatCompletion

from core.bases import catalog
from core.db import Database, open_database
from core.migrate import upgrade
from core.models import Model
from core.serving.serve_token import serve_token
from core.settings import Settings, load_settings
from core.store.storage import Storage, open_storage
from tests.core.rows import add_file, add_job, add_project
from tests.services import free_port
from tests.worker.trained import QUESTIONS, TrainedJob
from worker.publish import publish_adapter
from worker.serve.app import Server

TUNED = "ft:tiny:one:shirts:AbCd1234"
CHECKPOINT = f"{TUNED}:ckpt-step-20"
QUESTION, ANSWER = next(iter(QUESTIONS.items()))
ASK = [{"role": "user", "content": QUESTION}]


@dataclass(frozen=True)
class Place:
    """Database, storage and models directory with one ready base and two published adapters."""

    settings: Settings
    database: Database
    storage: Storage

    def client(self) -> OpenAI:
        address = self.settings.resolved_serve_address
        return OpenAI(base_url=f"{address}/v1", api_key=serve_token(self.settings), max_retries=0)

    def http(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {serve_token(self.settings)}"}
        address = self.settings.resolved_serve_address
        return httpx.Client(base_url=address, headers=headers, timeout=30, trust_env=False)


def make_place(root: Path, job: TrainedJob, **settings: object) -> Place:
    made = load_settings(data_dir=root / "data", serve_port=free_port(), engine_threads=1, device="cpu", **settings)
    made.resolved_models_dir.mkdir(parents=True)
    shutil.copytree(job.base, made.resolved_models_dir / "tiny")
    database = open_database(made.resolved_database_url)
    upgrade(database)
    storage = open_storage(made)
    with database.begin() as session:
        base = catalog.add(session, "tiny", source="folder")
        add_project(session)
        add_file(session)
        job_row = add_job(session)
        job_row.resolved = job.task.resolved.model_dump(mode="json")
    base = catalog.make_ready(database, storage, made, base)
    for number, model_id in enumerate((TUNED, CHECKPOINT)):
        stored = publish_adapter(
            storage, job.folder.published, f"projects/proj_one/jobs/{number}", root / "adapter.zip"
        )
        row = Model(
            id=model_id,
            project_id="proj_one",
            job_id=job_row.id,
            base_model="tiny",
            base_revision=base.revision,
            quantization=job.task.resolved.quantization,
            is_checkpoint=model_id == CHECKPOINT,
            step=number,
            storage_prefix=stored.prefix,
            files=stored.files,
            zip_key=stored.zip_key,
            zip_bytes=stored.zip.bytes,
            zip_sha256=stored.zip.sha256,
            adapter_sha256=stored.adapter_sha256,
            template_hash="",
        )
        with database.begin() as session:
            session.add(row)
    return Place(made, database, storage)


@contextmanager
def running(place: Place, **options: object) -> Iterator[Place]:
    """A server in this process, ended as uvicorn ends it."""
    server = Server(place.settings, give_up=lambda: None, **options)  # pyright: ignore[reportArgumentType]
    config = uvicorn.Config(server.app, port=place.settings.serve_port, log_level="warning", access_log=False)
    web = uvicorn.Server(config)
    thread = threading.Thread(target=web.run)
    thread.start()
    try:
        with place.http() as http:
            eventually(lambda: web.started and http.get("/health").json()["ready"])
        yield place
    finally:
        web.should_exit = True
        thread.join()


def eventually(holds: Callable[[], object], limit_s: float = 20.0) -> None:
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.02)


def ask(client: OpenAI, model: str = TUNED, **more: object) -> ChatCompletion:
    options = {"temperature": 0, "max_tokens": 24, **more}
    return client.chat.completions.create(model=model, messages=ASK, **options)  # pyright: ignore


def schema(definition: dict[str, object], strict: bool = True) -> dict[str, object]:
    return {"type": "json_schema", "json_schema": {"name": "shape", "strict": strict, "schema": definition}}
