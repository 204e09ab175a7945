"""Secrets that can be told apart, put everywhere that takes one; and then looked for where none may be.

One service, one small job with integrations; whatever was answered, logged, stored or written as a row is searched.
"""

from __future__ import annotations

import base64
import json
import secrets
import sqlite3
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.engine.tiny_base import make_base
from tests.live import BASE, ROOT, Live, live_service, wait_until_ended
from tests.services import free_port

TENANTS_OWN = ("files/",)  # what a tenant uploaded lies there as it is


@dataclass
class Canaries:
    """Secrets by their names, and what clients were answered (but for the one answer that hands out a secret)."""

    secrets: dict[str, str] = field(default_factory=dict)
    answers: list[tuple[str, bytes]] = field(default_factory=list)

    def new(self, name: str) -> str:
        return self.known(name, "canary" + secrets.token_hex(16))

    def known(self, name: str, secret: str) -> str:
        assert len(secret) > 20, name
        self.secrets[name] = secret
        return secret

    def found(self, where: str, content: bytes, *allowed: str) -> list[str]:
        """Which secrets `content` holds, as they are or as base64."""
        return [
            f"{name} in {where}"
            for name, secret in self.secrets.items()
            if name not in allowed and any(form in content for form in _forms(secret))
        ]


def _forms(secret: str) -> list[bytes]:
    """As it is, and as base64 holds it at any of the three offsets, without the characters that neighbours share."""
    plain = secret.encode()
    shifted = [base64.b64encode(b"\0" * offset + plain)[4 if offset else 0 : -4] for offset in range(3)]
    return [plain, *shifted]


@dataclass(frozen=True)
class Passed:
    """A service after everything was done with it, stopped."""

    data: Path
    canaries: Canaries
    logs: dict[str, bytes]


@pytest.fixture(scope="module")
def passed(tmp_path_factory: pytest.TempPathFactory) -> Passed:
    folder, canaries = tmp_path_factory.mktemp("canaries"), Canaries()
    (folder / "hub-token").write_text(canaries.new("hub token"))
    (folder / "serve-token").write_text(canaries.new("serve token"))
    environment = {
        "ATTUNE_LOG_LEVEL": "debug",
        "ATTUNE_HUB_TOKEN_FILE": str(folder / "hub-token"),
        "ATTUNE_SERVE_TOKEN_FILE": str(folder / "serve-token"),
        "ATTUNE_S3_SECRET_ACCESS_KEY": canaries.new("S3 secret"),
        "ATTUNE_WEBHOOK_ALLOW": "127.0.0.1",
        "ATTUNE_MLFLOW_TRACKING_URI": f"http://team:{canaries.new('MLflow password')}@127.0.0.1:{free_port()}",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_TRACKING_TOKEN": canaries.new("MLflow token"),
        "WANDB_MODE": "offline",
        "WANDB_API_KEY": canaries.new("W&B key"),
    }
    base, data = make_base(folder / BASE), folder / "data"
    with live_service(data, base, environment) as live:
        canaries.known("operator's key", live.key)
        live.wait_for_worker()
        with live.http() as http:
            _tenant(live, http, canaries)
            canaries.answers.append(("/metrics", http.get("/metrics").content))
            canaries.answers.append(("/readyz", http.get("/readyz").content))
        doctor = [sys.executable, "-m", "cli.main", "doctor", "--data", str(data), "--json"]
        examined = subprocess.run(doctor, cwd=ROOT, capture_output=True, check=False)
        canaries.answers.append(("attune doctor", examined.stdout + examined.stderr))
    return Passed(data, canaries, {"up": (data / "up.log").read_bytes()})


def _tenant(live: Live, operator: httpx.Client, canaries: Canaries) -> None:
    """A tenant's day: it signs in, trains, asks, is told, and makes mistakes."""
    project = operator.post("/v1/attune/projects", json={"name": "Canaries"}).json()["id"]
    asked = {"name": "laptop", "project_id": project, "scopes": ["read", "write", "inference", "admin"]}
    key = canaries.known("tenant's key", operator.post("/v1/attune/keys", json=asked).json()["key"])
    with httpx.Client(base_url=live.address, timeout=60, trust_env=False) as http:

        def call(method: str, path: str, **more: object) -> httpx.Response:
            headers = {"Authorization": f"Bearer {key}", **more.pop("headers", {})}  # pyright: ignore[reportArgumentType]
            answer = http.request(method, path, headers=headers, **more)  # pyright: ignore[reportArgumentType]
            canaries.answers.append((f"{method} {path}", answer.content + str(answer.headers.raw).encode()))
            return answer

        def told_once(path: str, name: str, part: str, body: object = None, bearer: str = key) -> dict[str, str]:
            answer = http.post(path, json=body, headers={"Authorization": f"Bearer {bearer}"})
            assert answer.status_code == 200, answer.text
            canaries.known(name, answer.json()[part])
            return answer.json()

        link = told_once("/v1/attune/sign_in_links", "sign-in link", "token")["token"]
        session = told_once("/v1/attune/sessions", "session", "token", bearer=link)["token"]
        call("GET", "/v1/attune/session", headers={"Authorization": f"Bearer {session}"})
        told_once("/v1/attune/keys", "second key", "key", {"name": "second"})
        hook = {"name": "x", "url": f"http://127.0.0.1:{free_port()}/", "event_types": ["fine_tuning.job.succeeded"]}
        told_once("/v1/attune/webhook_endpoints", "webhook secret", "signing_secret", hook)

        wrong = canaries.known("a key that is none", key[:-20] + "x" * 20)
        call("GET", "/v1/files", headers={"Authorization": f"Bearer {wrong}"})
        call("GET", "/v1/files", headers={"Authorization": canaries.new("no scheme")})
        call("POST", "/v1/fine_tuning/jobs", content=b'{"model": "' + canaries.new("broken body").encode())

        prompt = canaries.new("prompt")
        message = [{"role": "user", "content": prompt}, {"role": "assistant", "content": "fine"}]
        rows = b"".join(json.dumps({"messages": message}).encode() + b"\n" for _ in range(12))
        file = call("POST", "/v1/files", data={"purpose": "fine-tune"}, files={"file": ("a.jsonl", rows)}).json()["id"]
        job = call(
            "POST",
            "/v1/fine_tuning/jobs",
            json={
                "model": BASE,
                "training_file": file,
                "hyperparameters": {"n_epochs": 2},
                "integrations": [{"type": "wandb", "wandb": {"project": "p"}}],
                "attune": {"lora": {"rank": 4}, "integrations": [{"type": "mlflow"}, {"type": "tensorboard"}]},
            },
        ).json()["id"]
        embedded = told_once(f"/v1/attune/fine_tuning/jobs/{job}/embed_tokens", "embed token", "token", {})["token"]
        call("GET", f"/v1/fine_tuning/jobs/{job}", headers={"Authorization": f"Bearer {embedded}"})
        ended = wait_until_ended(live.client().with_options(api_key=key), job)
        assert ended.status == "succeeded", ended.error
        model = str(ended.fine_tuned_model)
        for stream in (False, True):
            body = {"model": model, "messages": message[:1], "max_tokens": 4, "stream": stream}
            assert call("POST", "/v1/chat/completions", json=body).status_code == 200
        call("POST", "/v1/chat/completions", json={"model": model, "messages": message[:1], "max_tokens": -1})
        for path in (
            *("/v1/files", f"/v1/files/{file}", "/v1/models", f"/v1/models/{model}", "/v1/fine_tuning/jobs"),
            *(f"/v1/fine_tuning/jobs/{job}{part}" for part in ("", "/events?limit=100", "/checkpoints")),
            *("/v1/attune/keys", "/v1/attune/audit_log", "/v1/attune/webhook_endpoints"),
            *(f"/v1/attune/fine_tuning/jobs/{job}/log", f"/v1/attune/models/{model}/download"),
            *(f"/v1/files/{result}/content" for result in ended.result_files),
        ):
            assert call("GET", path).status_code == 200, path


def test_no_answer_holds_a_secret(passed: Passed) -> None:
    assert len(passed.canaries.secrets) >= 15
    assert len(passed.canaries.answers) >= 25
    assert [one for path, content in passed.canaries.answers for one in passed.canaries.found(path, content)] == []


def test_no_log_holds_a_secret(passed: Passed) -> None:
    log = passed.logs["up"]
    assert log.count(b'"request"') > 20  # they were written, at level debug
    assert passed.canaries.found("the service's log", log) == []


def test_no_object_and_no_file_holds_a_secret(passed: Passed) -> None:
    """But for the operator's key where it is left, the tenant's own file, and the tables, which the next test opens."""
    found: list[str] = []
    searched = 0
    for path in sorted(passed.data.rglob("*")):
        name = str(path.relative_to(passed.data))
        if not path.is_file() or name.startswith("attune.db") or name in ("operator-key", "up.log"):
            continue
        allowed = ["prompt"] if "/files/" in name else []
        found += passed.canaries.found(name, path.read_bytes(), *allowed)
        searched += 1
    assert found == []
    assert searched > 20


def test_no_row_holds_a_secret_but_what_signs_webhooks(passed: Passed) -> None:
    found: list[str] = []
    with sqlite3.connect(passed.data / "attune.db") as database:
        tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            allowed = ["webhook secret"] if table == "webhook_endpoints" else []
            for row in database.execute(f"SELECT * FROM {table}"):
                content = b"\n".join(value if isinstance(value, bytes) else str(value).encode() for value in row)
                found += passed.canaries.found(f"table {table}", content, *allowed)
    assert len(tables) > 20
    assert found == []
