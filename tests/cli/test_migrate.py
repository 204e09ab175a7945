"""`attune migrate openai` from one running service that speaks the contract to another, which trains and answers."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from openai import OpenAI
from openai.types import FileObject

from cli import migrate, openai_export, openai_import
from core.models import BaseModelRow
from core.settings import Settings
from tests.api.place import SHAPE, Place, Tenant, examples, place, running
from tests.cli.service import Service
from tests.live import wait_until_ended
from tests.services import free_port

THEIR_BASE = "gpt-4o-mini-2024-07-18"
MAP = ("--map", f"{THEIR_BASE}=tiny")


@dataclass(frozen=True)
class Old:
    """What stands at "OpenAI"."""

    url: str
    key: str
    first: str  # succeeded, with a validation file
    second: str  # goes on from the first one's model
    lost: str  # its training file is gone
    cancelled: str
    model: str  # of the first
    checkpoint: str
    second_model: str

    @property
    def environment(self) -> dict[str, str]:
        return {"OPENAI_API_KEY": self.key, "OPENAI_BASE_URL": f"{self.url}/v1", "OPENAI_PROJECT_ID": ""}


@pytest.fixture(scope="module")
def their_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    settings = Settings(data_dir=tmp_path_factory.mktemp("openai"), log_level="warning")
    with place(settings) as running:
        with running.database.begin() as session:
            row = BaseModelRow(id=THEIR_BASE, source="folder", location="x", revision="r1", status="ready", shape=SHAPE)
            session.add(row)
        yield running


def trained(web: Place, tenant: Tenant, **fields: Any) -> tuple[str, str, str]:
    """(job, its model, a checkpoint)"""
    job_id = tenant.job(model=fields.pop("model", THEIR_BASE), attune={"label": "here"}, **fields)
    web.prepare(job_id)
    claim = web.start(job_id)
    checkpoint = web.publish(claim, 3)
    return job_id, web.publish(claim, 9, final=True), checkpoint


@pytest.fixture(scope="module")
def old(their_place: Place) -> Old:
    tenant = their_place.tenant("acme")
    first, model, checkpoint = trained(
        their_place,
        tenant,
        training_file=tenant.upload(examples(12), "tickets.jsonl"),
        validation_file=tenant.upload(examples(4), "held out.jsonl"),
        suffix="tickets",
        seed=7,
        metadata={"team": "blue"},
    )
    second, second_model, _ = trained(
        their_place, tenant, model=model, training_file=tenant.upload(examples(12, "better"))
    )
    gone = tenant.upload(examples(12, "gone"))
    lost, _, _ = trained(their_place, tenant, training_file=gone)
    tenant.openai.files.delete(gone)
    cancelled = tenant.job(model=THEIR_BASE)
    tenant.openai.fine_tuning.jobs.cancel(cancelled)
    return Old(their_place.url, tenant.key, first, second, lost, cancelled, model, checkpoint, second_model)


@dataclass(frozen=True)
class New:
    """A project of its own here."""

    service: Service
    key: str

    @property
    def client(self) -> OpenAI:
        return OpenAI(base_url=f"{self.service.live.address}/v1", api_key=self.key)

    def migrate(self, old: Old, *arguments: str | Path) -> dict[str, Any]:
        said = self.service.said("migrate", "openai", *arguments, "--json", ATTUNE_API_KEY=self.key, **old.environment)
        return json.loads(said)

    def files(self) -> list[FileObject]:
        return list(self.client.files.list(purpose="fine-tune"))


@pytest.fixture
def new(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> New:
    monkeypatch.chdir(tmp_path)
    project = service.said("projects", "create", "moving")
    return New(service, service.said("keys", "create", "moving", "--project", project))


def line_of(report: dict[str, Any], job: str) -> dict[str, Any]:
    return next(line for line in report["jobs"] if line["openai_job"] == job)


def test_a_project_moves_and_keeps_its_names(old: Old, new: New, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_export, "PAGE", 1)
    monkeypatch.setattr(openai_import, "POLL_S", 0.1)
    report = new.migrate(old, "--start", "--wait", "--yes", *MAP)
    assert report["bases"] == {THEIR_BASE: "tiny"}
    job = new.client.fine_tuning.jobs.retrieve(line_of(report, old.first)["job"])
    there = OpenAI(base_url=f"{old.url}/v1", api_key=old.key).fine_tuning.jobs.retrieve(old.first)
    assert (job.status, job.model, job.seed) == ("succeeded", "tiny", 7)
    assert (job.hyperparameters, job.method and job.method.type) == (there.hyperparameters, "supervised")
    assert job.to_dict()["user_provided_suffix"] == "tickets"
    assert job.metadata == {"team": "blue", "openai_job": old.first}
    stored = {line["openai_file"]: line for line in report["files"]}
    assert job.training_file == stored[there.training_file]["file"]
    assert there.validation_file
    assert job.validation_file == stored[there.validation_file]["file"]
    assert new.client.files.content(job.training_file).read() == examples(12)
    assert new.client.files.retrieve(job.validation_file or "").filename == "held out.jsonl"

    lost, went_on = line_of(report, old.lost), line_of(report, old.second)
    assert (lost["job"], "No such File object" in lost["note"]) == (None, True)
    assert (went_on["status"], went_on["base"], went_on["note"]) == ("succeeded", job.fine_tuned_model, None)
    assert line_of(report, old.cancelled)["note"] == "it was cancelled at OpenAI"

    messages: Any = [{"role": "user", "content": "order 3"}]
    answer = new.client.chat.completions.create(model=old.model, messages=messages, max_tokens=4)
    assert answer.model == old.model
    assert answer.usage is not None
    names = {alias["alias"]: alias["model"] for alias in report["aliases"]}
    assert names[old.model] == job.fine_tuned_model
    assert names[old.checkpoint].endswith(":ckpt-step-3")
    assert {old.model, old.checkpoint} <= {model.id for model in new.client.models.list()}

    assert names[old.second_model] == went_on["model"]
    assert new.migrate(old, "--start", "--yes", *MAP) == report, "nothing is left to do"
    assert len(list(new.client.fine_tuning.jobs.list())) == 2
    assert len(new.files()) == 3


def test_without_waiting_a_later_run_goes_on(old: Old, new: New) -> None:
    report = new.migrate(old, "--start", "--yes", *MAP)
    first, second = line_of(report, old.first), line_of(report, old.second)
    assert (second["job"], f"run this again when {first['job']} has ended" in second["note"]) == (None, True)
    assert report["aliases"] == []
    model = wait_until_ended(new.client, first["job"]).fine_tuned_model
    later = new.migrate(old, "--start", "--yes", *MAP)
    assert (line_of(later, old.first)["job"], line_of(later, old.first)["model"]) == (first["job"], model)
    assert (line_of(later, old.second)["base"], line_of(later, old.second)["note"]) == (model, None)


def test_a_file_too_large_for_one_request_comes_in_parts(old: Old, new: New, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_import, "WHOLE_FILE_BYTES", len(examples(12)) - 1)
    report = new.migrate(old, *MAP)
    stored = {line["filename"]: line["file"] for line in report["files"]}
    assert new.client.files.content(stored["tickets.jsonl"]).read() == examples(12)
    assert new.client.files.retrieve(stored["tickets.jsonl"]).status == "processed"
    assert stored["held out.jsonl"], "by one request, as it is smaller"
    assert new.migrate(old, *MAP) == report, "and it is known again"


def test_killed_in_the_middle_it_goes_on_and_doubles_nothing(their_place: Place, new: New, tmp_path: Path) -> None:
    tenant = their_place.tenant("many")
    count = 30
    for number in range(count):
        tenant.upload(examples(10, f"answer {number}"), f"{number}.jsonl")
    command = [sys.executable, "-m", "cli.main", "migrate", "openai"]
    environment = {
        **os.environ,
        "ATTUNE_URL": new.service.live.address,
        "ATTUNE_API_KEY": new.key,
        "OPENAI_API_KEY": tenant.key,
        "OPENAI_BASE_URL": f"{their_place.url}/v1",
        "PYTHONPATH": str(Path(openai_export.__file__).parent.parent),
    }
    # killed while it reads, then while it stores
    for reached in (lambda: len(list(tmp_path.glob("openai-export/files/*.jsonl"))), lambda: len(new.files())):
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while reached() < 3:
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
        process.kill()
        process.wait()
        assert 3 <= reached() < count, "something was at stake"
    # as if it had been killed between a file's content and its record
    next(tmp_path.glob("openai-export/files/*.json")).unlink()
    said = subprocess.run([*command, "--json"], env=environment, stdout=subprocess.PIPE, check=True).stdout
    report = json.loads(said)
    assert len(report["files"]) == len({line["file"] for line in report["files"]}) == count
    assert sorted(file.filename for file in new.files()) == sorted(f"{number}.jsonl" for number in range(count))


def test_jobs_of_one_second_come_after_those_they_continue_from(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    models = {"ftjob-c": (THEIR_BASE, "ft:1"), "ftjob-b": ("ft:1", "ft:2"), "ftjob-a": ("ft:2", "ft:3")}
    for job, (base, model) in models.items():
        record = {"id": job, "created_at": 7, "model": base, "fine_tuned_model": model}
        (tmp_path / f"jobs/{job}.json").write_text(json.dumps({"job": record, "checkpoints": []}))
    assert [one.job.id for one in openai_export.Export(tmp_path).jobs()] == list(models)


def test_an_export_is_brought_in_later_and_holds_no_key(old: Old, new: New, tmp_path: Path) -> None:
    folder = tmp_path / "there" / "export"
    key_file = tmp_path / "key"
    key_file.write_text(old.key + "\n")
    environment = {"OPENAI_BASE_URL": f"{old.url}/v1", "OPENAI_API_KEY": "", "ATTUNE_URL": "http://127.0.0.1:1"}
    arguments = ("--export", folder, "--openai-key-file", key_file)
    exported = new.service.attune("migrate", "openai", *arguments, **environment)
    assert exported.exit_code == 0, exported.output
    assert "exported 4 jobs and 5 files" in exported.stdout
    assert old.key not in exported.output
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not [path for path in folder.rglob("*") if path.is_file() and old.key.encode() in path.read_bytes()]
    assert len(list(folder.glob("results/*.csv"))) == 3

    # the lost file, put there by hand
    lost = json.loads((folder / f"jobs/{old.lost}.json").read_text())
    (folder / f"files/{lost['job']['training_file']}.jsonl").write_bytes(examples(12, "found"))
    nowhere = Old(**{**vars(old), "url": f"http://127.0.0.1:{free_port()}"})
    report = new.migrate(nowhere, "--from", folder, *MAP)
    assert all(line["file"] and line["note"] is None for line in report["files"])
    assert line_of(report, old.first)["note"] == "not started here; give --start"
    assert "no base of ours" not in json.dumps(report)
    table = new.service.said("migrate", "openai", "--from", folder, ATTUNE_API_KEY=new.key)
    assert "5 of 5 files are here, 0 of 4 jobs have a model here, 0 names answer." in table


def test_the_bases_are_asked_for_and_have_to_be_here(old: Old, new: New) -> None:
    asked = new.service.attune(
        "migrate", "openai", "--start", ATTUNE_API_KEY=new.key, **old.environment
    )  # nobody answers
    assert asked.exit_code == 1
    assert "Qwen/Qwen3-4B-Instruct-2507" in asked.stderr
    assert new.files() == []
    report = new.migrate(old, "--start", "--yes", "--map", f"{THEIR_BASE}=no/such")
    assert f"give --map {THEIR_BASE}=BASE" in line_of(report, old.first)["note"]
    assert list(new.client.fine_tuning.jobs.list()) == []


def breaking() -> FastAPI:
    """Holds one file, and ends before its content does."""
    app = FastAPI()
    file = {"object": "file", "created_at": 1, "filename": "a.jsonl", "purpose": "fine-tune", "status": "processed"}

    @app.get("/v1/fine_tuning/jobs")
    def jobs() -> dict[str, object]:
        return {"object": "list", "data": [], "has_more": False}

    @app.get("/v1/files")
    def files() -> dict[str, object]:
        return {"object": "list", "data": [{"id": "file-1", "bytes": 100, **file}], "has_more": False}

    @app.get("/v1/files/file-1/content")
    def content() -> StreamingResponse:
        return StreamingResponse(iter([b"{}"]), headers={"Content-Length": "100"})

    return app


def test_a_download_that_is_cut_off_leaves_nothing_half(new: New, tmp_path: Path) -> None:
    with running(breaking()) as address:
        said = new.service.refused(
            "migrate", "openai", "--export", tmp_path / "half", "--openai-url", f"{address}/v1", OPENAI_API_KEY="sk-any"
        )
    assert "peer closed connection" in said
    assert not list(tmp_path.glob("half/files/*"))


def test_what_is_missing_is_said(old: Old, new: New, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "PATIENT_RETRIES", 0)

    def refused(*arguments: str | Path, **environment: str) -> str:
        return new.service.refused("migrate", "openai", *arguments, **{**old.environment, **environment})

    assert "set OPENAI_API_KEY" in refused(OPENAI_API_KEY="")
    assert "cannot read" in refused("--openai-key-file", tmp_path / "none")
    assert "no folder" in refused("--from", tmp_path / "none")
    assert "Incorrect API key" in refused(OPENAI_API_KEY="sk-wrong")
    nowhere = f"http://127.0.0.1:{free_port()}/v1"
    assert f"cannot reach {nowhere}" in refused("--openai-url", nowhere)
    assert new.service.attune("migrate", "openai", "--map", "gpt-4o").exit_code == 2
