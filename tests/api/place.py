"""A running web side for tests: a real uvicorn in a thread, and a look behind it at rows and objects."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import httpx
import uvicorn
from openai import OpenAI
from starlette.types import ASGIApp

from api.app import create_app
from api.gate.body import Pace
from api.http_head import BoundedHead
from core import first_key, migrate
from core.db import Database, open_database
from core.jobs import claims
from core.jobs.claims import Claim, WorkerFacts
from core.models import BaseModelRow, Checkpoint, File, Job, Model, model_file_key
from core.protocol import FinalReport
from core.settings import Settings
from core.spec import LoraSettings, Quantization, Resolved
from core.store.storage import Storage, open_storage
from tests.services import free_port

BASE = "tiny/base"
SHAPE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 512,
    "max_position_embeddings": 512,
}
RESOLVED = Resolved(
    n_epochs=3,
    batch_size=4,
    learning_rate_multiplier=1.0,
    learning_rate=3e-3,
    lora=LoraSettings(rank=8, scale=2.0, dropout=0.0),
    quantization=Quantization.NF4,
    max_example_tokens=64,
    warmup_steps=1,
    total_steps=9,
    max_grad_norm=1.0,
    weight_decay=0.0,
    validation_every_steps=9,
    checkpoint_every_steps=3,
)
FINAL = FinalReport(step=9, steps=9, stopped_early=False, validation_loss=0.5, validation_perplexity=1.6487)
WORKER = WorkerFacts(id="worker", memory_bytes=1 << 40, labels=("here",))


@contextmanager
def running(app: ASGIApp) -> Iterator[str]:
    """The address of a uvicorn that serves `app` until the block ends."""
    config = uvicorn.Config(
        app, port=free_port(), http=BoundedHead, log_level="warning", access_log=False, timeout_graceful_shutdown=2
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        assert thread.is_alive(), "the app did not start"
        assert time.monotonic() < deadline, "the app did not start in time"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{config.port}"
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


@dataclass(frozen=True)
class Tenant:
    """A project of its own, with a key."""

    place: Place
    project_id: str
    key: str

    @cached_property
    def openai(self) -> OpenAI:
        return OpenAI(api_key=self.key, base_url=f"{self.place.url}/v1", max_retries=0)

    @property
    def http(self) -> httpx.Client:
        return self.place.client(self.key)

    def upload(self, data: bytes | None = None, name: str = "train.jsonl") -> str:
        file = self.openai.files.create(file=(name, examples(12) if data is None else data), purpose="fine-tune")
        return file.id

    def job(self, **fields: Any) -> str:
        body = {"model": BASE, "training_file": None, **fields}
        body["training_file"] = body["training_file"] or self.upload()
        answer = self.http.post("/v1/fine_tuning/jobs", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()["id"]

    def left(self) -> tuple[int, int]:
        """(files and jobs, objects) that the project has."""
        with self.place.database.read() as session:
            rows = sum(row.project_id == self.project_id for table in (File, Job) for row in session.query(table).all())
        return rows, len(list(self.place.storage.list(f"projects/{self.project_id}")))


@dataclass(frozen=True)
class Place:
    settings: Settings
    url: str
    operator_key: str
    database: Database
    storage: Storage

    def client(self, key: str | None = None) -> httpx.Client:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        # verify: no certificate is read here, and loading the authorities takes longer than a test
        return httpx.Client(base_url=self.url, headers=headers, timeout=20, trust_env=False, verify=False)

    @property
    def operator(self) -> httpx.Client:
        return self.client(self.operator_key)

    def tenant(self, name: str = "tenant", **key: Any) -> Tenant:
        """A new project; `key`: what its key is made with, such as scopes."""
        with self.operator as http:
            project = http.post("/v1/attune/projects", json={"name": name}).json()["id"]
        return Tenant(self, project, self.key(project, **key))

    def key(self, project_id: str, **fields: Any) -> str:
        with self.operator as http:
            answer = http.post("/v1/attune/keys", json={"name": "made", "project_id": project_id, **fields})
        assert answer.status_code == 200, answer.text
        return answer.json()["key"]

    # What preparation and a worker would do

    def prepare(self, job_id: str) -> None:
        claim = self._claim(job_id, training=False)
        with self.database.begin() as session:
            assert claims.prepared(
                session, claim, resolved=RESOLVED, reasons={"n_epochs": "as you chose"}, plan={"training_tokens": 99},
                required_bytes=1, template_date="2026-01-01",
            )  # fmt: skip

    def start(self, job_id: str) -> Claim:
        return self._claim(job_id, training=True)

    def _claim(self, job_id: str, *, training: bool) -> Claim:
        """Claims until it is this job's turn; jobs of other tests keep their claims."""
        while True:
            with self.database.begin() as session:
                if training:
                    claim = claims.claim_training(session, WORKER, 600)
                else:
                    claim = claims.claim_preparation(session, "prepare", 600)
            assert claim is not None, "nothing to claim"
            if claim.job_id == job_id:
                return claim

    def give_up(self, claim: Claim) -> None:
        with self.database.begin() as session:
            assert claims.stop(session, claim, "cancelled")

    def publish(self, claim: Claim, step: int, *, final: bool = False) -> str:
        """An adapter of the job, with two small files and a zip."""
        model_id = f"ft:base:org::{claim.job_id[-8:]}" + ("" if final else f":ckpt-step-{step}")
        prefix = f"projects/{claim.job.project_id}/jobs/{claim.job_id}/{claim.attempt}/adapter-{step}"
        contents = {"adapter_config.json": b"{}", "adapter_model.safetensors": bytes(range(256)) * 40}
        files: list[dict[str, Any]] = []
        for path, content in contents.items():
            stored = self.storage.put_bytes(model_file_key(prefix, path), content)
            files.append({"path": path, "bytes": stored.bytes, "sha256": stored.sha256})
        zipped = self.storage.put_bytes(f"{prefix}/adapter.zip", b"PK" + bytes(5000))
        model = Model(
            id=model_id, project_id=claim.job.project_id, job_id=claim.job_id, base_model=BASE, base_revision="r1",
            quantization="nf4", is_checkpoint=not final, step=step, storage_prefix=prefix, files=files,
            zip_key=f"{prefix}/adapter.zip", zip_bytes=zipped.bytes, zip_sha256=zipped.sha256,
            adapter_sha256=files[1]["sha256"], template_hash="t", proof={"passed": True},
        )  # fmt: skip
        checkpoint = Checkpoint(
            id=f"ftckpt_{claim.job_id[-8:]}{step}", job_id=claim.job_id, model_id=model_id, step=step,
            metrics={"train_loss": 0.5, "train_mean_token_accuracy": 0.9},
        )  # fmt: skip
        with self.database.begin() as session:
            if final:
                table = self.storage.put_bytes(f"{prefix}/metrics.csv", b"step")
                result = File(
                    id=f"file-result-{claim.job_id[-8:]}", project_id=claim.job.project_id, filename="metrics.csv",
                    purpose="fine-tune-results", bytes=table.bytes, sha256=table.sha256,
                    storage_key=f"{prefix}/metrics.csv", status="processed",
                )  # fmt: skip
                assert claims.succeed(session, claim, model, checkpoint, [result], 1234, final=FINAL)
            else:
                assert claims.add_checkpoint(session, claim, model, checkpoint, keep=9) is not None
        return model_id


@contextmanager
def place(settings: Settings, **options: Any) -> Iterator[Place]:
    """A migrated, keyed and running web side over `settings`, with one small base in its catalog."""
    database = open_database(settings.resolved_database_url)
    migrate.upgrade(database)
    first_key.ensure_first_key(database, settings.resolved_operator_key_file)
    with database.begin() as session:
        session.add(
            BaseModelRow(
                id=BASE, source="folder", location="tiny", revision="r1", status="ready", shape=SHAPE, parameters=10**6
            )
        )
    storage = open_storage(settings)
    pace: Pace | None = options.get("pace")
    with running(create_app(settings, with_background=False, pace=pace)) as url:
        key = settings.resolved_operator_key_file.read_text().strip()
        yield Place(settings, url, key, database, storage)
    database.close()


def examples(count: int, answer: str = "fine") -> bytes:
    rows = [
        {"messages": [{"role": "user", "content": f"how is {n}?"}, {"role": "assistant", "content": answer}]}
        for n in range(count)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
