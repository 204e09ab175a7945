"""A backup taken in the middle of a job, restored into an empty folder: the job goes on there to the same adapter."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.engine.tiny_base import make_base
from tests.live import BASE, ROOT, Live, live_service, wait_for_step, wait_until_ended

SETTINGS = {"ATTUNE_SNAPSHOT_INTERVAL_S": "0.2", "ATTUNE_BEAT_S": "1", "ATTUNE_LEASE_S": "10"}


def attune(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli.main", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / BASE)


@pytest.fixture(scope="module")
def live(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live_service(tmp_path_factory.mktemp("running"), base, SETTINGS) as service:
        service.wait_for_worker()
        yield service


def _adapter(live: Live, model: str) -> str:
    with live.http() as http:
        return http.get(f"/v1/models/{model}").raise_for_status().json()["attune"]["adapter_sha256"]


def test_a_running_job_is_finished_from_the_backup(live: Live, base: Path, tmp_path: Path) -> None:
    client = live.client()
    rows = [
        {"messages": [{"role": "user", "content": f"order {n}?"}, {"role": "assistant", "content": "today"}]}
        for n in range(40)
    ]
    file = client.files.create(file=("rows.jsonl", "\n".join(map(json.dumps, rows)).encode()), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model=BASE, training_file=file.id, seed=3, hyperparameters={"n_epochs": 20, "batch_size": 4}
    )
    wait_for_step(client, job.id, 30)
    backup = tmp_path / "backup"
    made = attune("backup", str(backup), "--data", str(live.data))
    assert made.returncode == 0, made.stderr
    assert stat.S_IMODE(backup.stat().st_mode) == 0o700
    assert not list(live.data.glob(".backup-*")), "the links beside the objects are gone"
    undisturbed = wait_until_ended(client, job.id)
    assert undisturbed.status == "succeeded"
    assert undisturbed.fine_tuned_model

    again = attune("backup", str(backup), "--data", str(live.data))
    assert again.returncode == 1
    assert "exists" in again.stderr

    restored = tmp_path / "restored"
    put_back = attune("restore", str(backup), "--data", str(restored))
    assert put_back.returncode == 0, put_back.stderr
    with live_service(restored, base, SETTINGS) as other:
        finished = wait_until_ended(other.client(), job.id)
        assert finished.status == "succeeded", finished.error
        assert finished.fine_tuned_model
        assert finished.to_dict()["attune"]["attempt"] == undisturbed.to_dict()["attune"]["attempt"] + 1  # pyright: ignore
        assert _adapter(other, finished.fine_tuned_model) == _adapter(live, undisturbed.fine_tuned_model)
    onto = attune("restore", str(backup), "--data", str(restored))
    assert onto.returncode == 1
    assert "not empty" in onto.stderr


def test_a_damaged_backup_is_refused(live: Live, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    assert attune("backup", str(backup), "--data", str(live.data)).returncode == 0
    manifest = json.loads((backup / "manifest.json").read_text())
    some = next(file["path"] for file in manifest["files"] if file["path"].startswith("objects/"))
    (backup / some).write_bytes(b"other bytes")
    refused = attune("restore", str(backup), "--data", str(tmp_path / "restored"))
    assert refused.returncode == 1
    assert some in refused.stderr.replace("\n", "")
    manifest["files"].append({"path": "objects/../x", "bytes": 0, "sha256": ""})
    (backup / "manifest.json").write_text(json.dumps(manifest))
    assert "is no backup" in attune("restore", str(backup), "--data", str(tmp_path / "other")).stderr


def test_the_doctor_finds_a_running_service_well_and_an_empty_folder_not(live: Live, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cli.main", "doctor", "--data", str(live.data), "--json"]
    port = live.address.rpartition(":")[2]
    seen = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, env={**os.environ, "ATTUNE_PORT": port}
    )
    findings = {finding["name"]: finding for finding in json.loads(seen.stdout)}
    assert seen.returncode == 0, seen.stdout
    assert set(findings) >= {"database", "migrations", "clock", "storage", "broker", "web", "workers", "servers"}
    assert {finding["state"] for finding in findings.values()} <= {"ok", "warning"}, findings
    assert findings["workers"]["state"] == findings["web"]["state"] == "ok", findings

    nowhere = attune("doctor", "--data", str(tmp_path / "none"))
    assert nowhere.returncode == 1
    assert "attune up" in nowhere.stdout
    assert not (tmp_path / "none").exists(), "a look changes nothing"


def test_a_worker_of_another_version_takes_no_job(live: Live) -> None:
    client = live.client()
    file = client.files.create(file=("few.jsonl", b'{"text": "three blue shirts"}\n' * 12), purpose="fine-tune")
    with closing(sqlite3.connect(live.data / "attune.db", timeout=30)) as database:
        (own,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
        database.execute("UPDATE alembic_version SET version_num = 'of-tomorrow'")
        database.commit()
        job = client.fine_tuning.jobs.create(model=BASE, training_file=file.id, hyperparameters={"n_epochs": 1})
        deadline = time.monotonic() + 30
        while "worker_of_another_version" not in (live.data / "up.log").read_text() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert "worker_of_another_version" in (live.data / "up.log").read_text()
        assert client.fine_tuning.jobs.retrieve(job.id).status in ("validating_files", "queued")
        database.execute("UPDATE alembic_version SET version_num = ?", (own,))
        database.commit()
    assert wait_until_ended(client, job.id).status == "succeeded"
