"""Every command of `attune` against a real `attune up` with its embedded defaults."""

from __future__ import annotations

import json
import re
import shutil
import stat
import time
import zipfile
from pathlib import Path

import pytest

from tests.cli.service import Service
from tests.preferences import pairs

BACK_S = 60.0  # a killed program is running again, on a busy machine


def examples(path: Path, count: int = 12) -> Path:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"order {n}"},
                {"role": "assistant", "content": "yes " * (n % 3 + 1)},
            ]
        }
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def until_status(service: Service, job: str, *statuses: str) -> None:
    deadline = time.monotonic() + 60
    while (status := json.loads(service.said("jobs", "show", job, "--json"))["status"]) not in statuses:
        assert time.monotonic() < deadline, status
        time.sleep(0.1)


def test_up_says_where_it_is_and_where_the_key_lies(service: Service) -> None:
    output = service.output
    key_file = service.data / "operator-key"
    assert f"Attune is ready at {service.live.address} " in output
    assert str(key_file) in output
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    key = key_file.read_text().strip().encode()
    assert key.decode() not in output
    holders = [path for path in service.data.rglob("*") if path.is_file() and key in path.read_bytes()]
    assert holders == [key_file], "the database holds hashes only"


def test_a_key_is_made_used_and_revoked(service: Service) -> None:
    made = json.loads(service.said("keys", "create", "laptop", "--json"))
    assert made["id"] in service.said("keys", "list")
    assert made["key"] not in service.said("keys", "list", "--json")
    assert service.said("jobs", "list", "--json", ATTUNE_API_KEY=made["key"]) == "[]"
    assert "Missing scopes: admin" in service.refused("keys", "list", ATTUNE_API_KEY=made["key"])
    service.said("keys", "revoke", made["id"])
    assert "Incorrect API key" in service.refused("jobs", "list", ATTUNE_API_KEY=made["key"])
    assert "No such key" in service.refused("keys", "revoke", made["id"])


def test_a_key_has_scopes_and_an_end(service: Service) -> None:
    scopes = ("--scope", "read", "--scope", "admin")
    made = json.loads(service.said("keys", "create", "lead", *scopes, "--expires-in", "12h", "--json"))
    assert made["scopes"] == ["read", "admin"]
    assert abs(made["expires_at"] - made["created_at"] - 12 * 3600) <= 1
    assert "read, admin" in service.said("keys", "list", ATTUNE_API_KEY=made["key"])
    assert "Missing scopes: write" in service.refused("jobs", "cancel", "ftjob-x", ATTUNE_API_KEY=made["key"])
    assert service.attune("keys", "create", "x", "--expires-in", "soon").exit_code == 2
    service.said("keys", "revoke", made["id"], ATTUNE_API_KEY=made["key"])


def test_a_key_is_printed_alone(service: Service, tmp_path: Path) -> None:
    """So that `attune keys create x > file` makes a key file."""
    key_file = tmp_path / "key"
    key_file.write_text(service.said("keys", "create", "ci"))
    service.said("--key-file", key_file, "jobs", "list")


def test_a_project_is_made_and_erased(service: Service) -> None:
    project = service.said("projects", "create", "Team Blue")
    listed = {row["id"]: row for row in json.loads(service.said("projects", "list", "--json"))}
    assert listed[project]["slug"] == "team-blue"
    key = service.said("keys", "create", "theirs", "--project", project)
    assert service.attune("projects", "erase", project).exit_code == 1, "it asks first"
    service.said("projects", "erase", project, "--yes")
    assert project not in service.said("projects", "list")
    service.refused("jobs", "list", ATTUNE_API_KEY=key)


def test_a_base_model_is_added_listed_and_removed(service: Service) -> None:
    shutil.copytree(service.data / "models/tiny", service.data / "models/another")
    added = service.said("models", "add", "another", "--folder")
    assert re.fullmatch(r"another ready, revision [0-9a-f]{40,64}", added)
    assert "another" in service.said("models", "list", "--base")
    assert "already" in service.refused("models", "add", "another", "--folder")
    assert "Qwen/Qwen3-0.6B" in service.said("models", "list", "--base")
    service.said("models", "remove", "Qwen/Qwen3-0.6B")
    assert "Qwen/Qwen3-0.6B" not in service.said("models", "list", "--base")
    assert "does not exist" in service.refused("models", "remove", "Qwen/Qwen3-0.6B")


def test_from_a_file_to_a_downloaded_adapter(service: Service, tmp_path: Path) -> None:
    file = examples(tmp_path / "examples.jsonl")
    chosen = ("--epochs", "1", "--rank", "4", "--seed", "3", "--suffix", "mine")
    output = service.said("train", file, "--model", "tiny", "--validation", file, *chosen, "--watch")
    assert "training loss=" in output
    model = output.splitlines()[-1].removeprefix("fine-tuned model: ")
    assert re.fullmatch(r"ft:tiny:default:mine:\w{8}", model)

    job = output.split()[0]
    assert job in service.said("jobs", "list")
    details = service.said("jobs", "show", job)
    assert model in details
    assert re.search(r"seed +3\b", details)
    assert "chosen because" in details
    assert service.said("jobs", "logs", job).startswith("---")
    assert model in service.said("models", "list", "--tuned")

    target = tmp_path / "adapter.zip"
    service.said("download", model, "-o", target)
    with zipfile.ZipFile(target) as archive:
        assert archive.testzip() is None
        assert {"adapter_config.json", "adapter_model.safetensors"} <= {Path(name).name for name in archive.namelist()}
    assert "no folder" in service.refused("download", model, "-o", tmp_path / "nowhere" / "adapter.zip")

    service.said("models", "remove", model)
    assert "does not exist" in service.refused("download", model, "-o", tmp_path / "again.zip")
    assert list(tmp_path.glob(".*")) == [], "a refused download leaves nothing behind"


def test_a_job_is_paused_resumed_and_cancelled(service: Service, tmp_path: Path) -> None:
    file = examples(tmp_path / "examples.jsonl", 400)
    job = service.said("train", file, "--model", "tiny", "--epochs", "50", "--batch-size", "1").split()[0]
    until_status(service, job, "queued", "running")
    service.said("jobs", "pause", job)
    until_status(service, job, "paused")
    service.said("jobs", "resume", job)
    until_status(service, job, "queued", "running")
    service.said("jobs", "cancel", job)
    watched = service.attune("jobs", "watch", job)
    assert watched.exit_code == 1
    assert "cancelled" in watched.stderr
    assert "already" not in service.said("jobs", "cancel", job)


def test_faulty_lines_are_named(service: Service, tmp_path: Path) -> None:
    file = examples(tmp_path / "examples.jsonl")
    file.write_text(file.read_text() + '{"messages": [{"role": "usr", "content": "x"}]}\n')
    result = service.attune("train", file, "--model", "tiny")
    assert result.exit_code == 1
    assert f"{file}:13" in result.stderr
    assert "messages[0].role" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["jobs", "show", "ftjob-nobody"], "Could not find fine tune: ftjob-nobody"),
        (["download", "ft:tiny:default:x:nobody00"], "does not exist"),
        (["models", "add", "no-such-folder", "--folder"], "no-such-folder"),
        (["--url", "http://127.0.0.1:9", "jobs", "list"], "cannot reach http://127.0.0.1:9/v1"),
        (["--key-file", "no-such-file", "jobs", "list"], "cannot read no-such-file"),
    ],
)
def test_a_mistake_is_one_clear_line(service: Service, arguments: list[str], words: str) -> None:
    assert words in service.refused(*arguments)


def test_an_unknown_model_and_a_value_out_of_bounds_are_named(service: Service, tmp_path: Path) -> None:
    file = examples(tmp_path / "examples.jsonl")
    assert "The model 'nope' does not exist (param: model)" in service.refused("train", file, "--model", "nope")
    assert "attune.lora.rank" in service.refused("train", file, "--model", "tiny", "--rank", "0")


def test_preferences_are_trained_on_by_name(service: Service, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_bytes(pairs(12, seed=1))
    dpo = ("train", file, "--model", "tiny", "--method", "dpo")
    job = service.said(*dpo, "--beta", "0.5", "--epochs", "1").split()[0]
    shown = json.loads(service.said("jobs", "show", job, "--json"))
    assert (shown["method"]["type"], shown["method"]["dpo"]["hyperparameters"]["beta"]) == ("dpo", 0.5)
    service.said("jobs", "cancel", job)
    assert "method.dpo.hyperparameters.beta" in service.refused(*dpo, "--beta", "3")
    supervised = service.refused("train", file, "--model", "tiny", "--beta", "0.5")
    assert "method.supervised.hyperparameters.beta" in supervised
    assert "Use the method 'dpo'" in service.refused("train", file, "--model", "tiny")


def test_a_killed_web_side_is_back_at_once(service: Service) -> None:
    (before,) = service.live.processes("uvicorn")
    before.kill()
    deadline = time.monotonic() + BACK_S
    while service.attune("jobs", "list").exit_code != 0:
        assert time.monotonic() < deadline, service.output
    (after,) = service.live.processes("uvicorn")
    assert after.pid != before.pid


def test_it_stops_in_time_and_leaves_no_process(service: Service) -> None:
    service.live.wait_for_worker()
    parts = ("api.app", "core.prepare", "worker.app", "worker.engine", "worker.serve")
    family = [process for part in parts for process in service.live.processes(part)]
    assert len(family) == len(parts)
    began = time.monotonic()
    service.live.process.terminate()
    assert service.live.process.wait(15) == 0
    assert time.monotonic() - began < 10
    assert [process for process in family if process.is_running()] == []
    assert service.output.endswith("Attune has stopped.\n")
