"""A job's integrations from the worker's side: what fails, or hangs, is a warning and nothing more."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from core import migrate
from core.db import Database, open_database
from core.jobs import claims, job_files
from core.models import BaseModelRow, Job, JobEvent
from core.protocol import Step
from core.settings import Settings
from core.store.storage import open_storage
from tests import services
from tests.api.place import RESOLVED
from tests.core.rows import WORKER, add_file, add_project, queued_job
from worker import tracking
from worker.attempt import Attempt, Place
from worker.tracking import Tracking
from worker.tracking_program import environment, without_secrets

STEP = Step(
    step=1, total_steps=2, train_loss=0.5, train_mean_token_accuracy=0.5, learning_rate=1e-3, grad_norm=1.0, tokens=9,
    tokens_per_s=9.0,
)  # fmt: skip


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = open_database(f"sqlite:///{tmp_path / 'attune.db'}")
    migrate.upgrade(database)
    with database.begin() as session:
        add_project(session)
        add_file(session)
        session.add(BaseModelRow(id="tiny", source="folder", location="tiny", revision="r1", status="ready"))
    yield database
    database.close()


@pytest.fixture
def attempt(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Attempt:
    """An attempt at a job that asked for wandb, on a worker that has no key for it."""
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return new_attempt(database, tmp_path, {"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]})


def new_attempt(database: Database, folder: Path, request: dict[str, Any], **settings: Any) -> Attempt:
    job_id = queued_job(database)
    with database.begin() as session:
        values = {"request": request, "resolved": RESOLVED.model_dump(mode="json")}
        session.execute(update(Job).where(Job.id == job_id).values(**values))
    with database.begin() as session:
        claim = claims.claim_training(session, WORKER, 600)
    assert claim is not None
    place_settings = Settings(data_dir=folder, **settings)
    place = Place(place_settings, database, open_storage(place_settings), folder / "jobs", lambda: False)
    with database.read() as session:
        inputs = job_files.inputs_of(session, claim.job)
    attempt = Attempt(place, claim, inputs, on_lost=lambda: None)
    attempt.folder.root.mkdir(parents=True)
    return attempt


def warnings(database: Database) -> list[str]:
    with database.read() as session:
        return list(session.scalars(select(JobEvent.message).where(JobEvent.level == "warn")))


def test_an_integration_that_cannot_start_is_a_warning(attempt: Attempt, database: Database) -> None:
    runs = Tracking(attempt)
    runs.start()
    runs.step(STEP)
    runs.finish()
    [said] = warnings(database)
    assert said.startswith("The integration wandb failed, and the job goes on without it: ")
    runs.step(STEP)
    runs.abandon()
    assert warnings(database) == [said]
    with database.read() as session:
        assert session.get_one(Job, attempt.job.id).status == "running"


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_an_integration_that_hangs_is_left_behind(
    attempt: Attempt, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "FINISH_S", 4.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        runs = Tracking(attempt)
        started = time.monotonic()
        runs.start()
        for _ in range(2000):  # more than a pipe holds
            runs.step(STEP)
        runs.look()
        assert time.monotonic() - started < 2.0
        runs.finish()
    [said] = warnings(database)
    assert "took longer than 4 s" in said


def mlflow_of(**choices: str) -> dict[str, Any]:
    return {"attune_integrations": [{"type": "mlflow", "mlflow": choices}]}


@dataclass(frozen=True)
class Server:
    address: str
    store: str  # its database


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real tracking server."""
    folder = tmp_path_factory.mktemp("mlflow")
    port = services.free_port()
    store = f"sqlite:///{folder / 'mlflow.db'}"
    options = ("--backend-store-uri", store, "--artifacts-destination", str(folder), "--workers", "1")
    command = [sys.executable, "-m", "mlflow", "server", *options, "--port", str(port)]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with services.program(
        command, log=folder / "log", ready=lambda: services.port_answers(port), env=environment, cwd=folder
    ):
        yield Server(f"http://127.0.0.1:{port}", store)


def test_mlflow_gets_every_step_once_however_often_the_job_is_resumed(
    database: Database, tmp_path: Path, mlflow_server: Server
) -> None:
    from mlflow import MlflowClient

    request = mlflow_of(tracking_uri=mlflow_server.address, experiment="support", run_name="first")
    attempt = new_attempt(database, tmp_path, request)
    client = MlflowClient(mlflow_server.address)
    losses = {1: 0.5, 2: 0.4, 3: 0.3, 4: 0.2}
    for steps, is_whole in ((range(1, 4), False), (range(2, 5), True)):
        runs = Tracking(attempt)
        runs.start()
        for step in steps:
            runs.step(STEP.model_copy(update={"step": step, "train_loss": losses[step], "full_valid_loss": 0.7}))
        runs.finish() if is_whole else wait_for_run(runs)
        runs.abandon()
        [run] = client.search_runs([client.get_experiment_by_name("support").experiment_id])
        assert run.info.status == ("FINISHED" if is_whole else "KILLED")
    assert warnings(database) == []
    logged = client.get_metric_history(run.info.run_id, "train_loss")
    assert [(metric.step, metric.value) for metric in logged] == list(losses.items())
    assert run.data.metrics.keys() == {*STEP.model_dump(exclude={"report"}, exclude_none=True), "full_valid_loss"}
    assert (run.data.params["lora.rank"], run.data.params["seed"]) == ("8", str(attempt.job.seed))
    assert (run.info.run_name, run.data.tags["attune.job"]) == ("first", attempt.job.id)
    assert runs.integrations is not None
    assert runs.integrations[0]["mlflow"] == {
        "tracking_uri": mlflow_server.address,
        "experiment": "support",
        "experiment_id": run.info.experiment_id,
        "run_name": "first",
        "run_id": run.info.run_id,
    }


def wait_for_run(runs: Tracking) -> None:
    """Until the program has answered, as it does before its first step."""
    deadline = time.monotonic() + 30
    while runs.integrations and "run_id" not in runs.integrations[0]["mlflow"]:
        assert time.monotonic() < deadline
        runs.look()
        time.sleep(0.05)


def test_the_operators_mlflow_is_used_and_not_shown(database: Database, tmp_path: Path, mlflow_server: Server) -> None:
    from mlflow import MlflowClient

    runs = Tracking(new_attempt(database, tmp_path, mlflow_of(), mlflow_tracking_uri=mlflow_server.store))
    runs.start()
    runs.step(STEP)
    runs.finish()
    assert warnings(database) == []
    assert runs.integrations is not None
    shown = runs.integrations[0]["mlflow"]
    assert shown.keys() == {"experiment", "experiment_id", "run_name", "run_id"}
    assert MlflowClient(mlflow_server.address).get_run(shown["run_id"]).data.metrics["train_loss"] == STEP.train_loss


def test_an_error_holds_no_secret_of_the_operators(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "a-token-of-the-operators")
    monkeypatch.setattr(tracking, "FINISH_S", 120.0)  # it ends as soon as it has failed
    address = f"http://team:pass-word@127.0.0.1:{services.free_port()}"
    runs = Tracking(new_attempt(database, tmp_path, mlflow_of(), mlflow_tracking_uri=address))
    runs.start()
    runs.finish()
    [said] = warnings(database)
    assert "onnection" in said
    assert "pass-word" not in said
    assert without_secrets("no a-token-of-the-operators at http://u:p@ss-word@h/x") == "no … at http://…@h/x"


def test_a_services_secret_may_stand_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("a-key\n")
    for name in ("WANDB_API_KEY_FILE", "MLFLOW_TRACKING_TOKEN_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "key"))
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "team")
    wandb, mlflow = environment("WANDB_"), environment("MLFLOW_")
    assert {name: value for name, value in wandb.items() if "key" in value} == {"WANDB_API_KEY": "a-key"}
    assert mlflow["MLFLOW_TRACKING_TOKEN"] == "a-key"
    assert mlflow["MLFLOW_TRACKING_USERNAME"] == "team"
    assert not {name for name in (*wandb, *mlflow) if name.endswith(("TOKEN_FILE", "KEY_FILE"))}


def test_without_a_server_mlflow_is_a_warning(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    nowhere = f"http://127.0.0.1:{services.free_port()}"
    for request, reason in (
        (mlflow_of(), "ATTUNE_MLFLOW_TRACKING_URI"),
        (mlflow_of(tracking_uri=nowhere), "onnection"),
    ):
        runs = Tracking(new_attempt(database, tmp_path, request))
        runs.start()
        runs.step(STEP)
        runs.finish()
        assert warnings(database)[-1].startswith("The integration mlflow failed, and the job goes on without it: ")
        assert reason in warnings(database)[-1]
