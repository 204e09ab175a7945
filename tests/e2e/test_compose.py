"""A job through docker-compose.yml: its commands and environments over Postgres with three roles, Redis and S3."""

from __future__ import annotations

import io
import json
import shutil
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
import redis
from openai import NotFoundError, OpenAI
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.e2e.compose_stack import Stack, compose_stack
from tests.live import BASE, wait_until_ended

READY_S = 30.0
JOB_LIMIT_S = 90.0


@pytest.fixture(scope="module")
def stack(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("compose")
    shutil.copytree(small_base, folder / "models" / BASE)
    with compose_stack(folder) as running:
        yield running


def examples(count: int) -> bytes:
    def example(order: int) -> dict[str, object]:
        question = {"role": "user", "content": f"Where is order {order}?"}
        return {"messages": [question, {"role": "assistant", "content": f"Order {order} is on its way."}]}

    return "".join(json.dumps(example(1000 + i)) + "\n" for i in range(count)).encode()


def wait_until_offered(client: OpenAI, model: str) -> None:
    """Until the web side has prepared the base that it found in the models folder."""
    deadline = time.monotonic() + READY_S
    while True:
        try:
            client.models.retrieve(model)
        except NotFoundError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            return


def test_a_job_runs_through_the_compose_file(stack: Stack) -> None:
    client = OpenAI(base_url=f"{stack.address}/v1", api_key=stack.key)
    wait_until_offered(client, BASE)
    training_file = client.files.create(file=("orders.jsonl", examples(16)), purpose="fine-tune")
    hyperparameters = {"n_epochs": 1, "batch_size": 8}
    job = client.fine_tuning.jobs.create(
        model=BASE,
        training_file=training_file.id,
        seed=3,
        method={"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
    )
    job = wait_until_ended(client, job.id, JOB_LIMIT_S)
    assert job.status == "succeeded", f"{job.error} {stack.log('worker-cpu')[-3000:]}"
    assert job.fine_tuned_model is not None

    answer = client.chat.completions.create(
        model=job.fine_tuned_model, messages=[{"role": "user", "content": "My kettle is broken."}], max_tokens=4
    )
    assert answer.choices[0].finish_reason in ("stop", "length")
    archive = httpx.get(
        f"{stack.address}/v1/attune/models/{job.fine_tuned_model}/download",
        headers={"Authorization": f"Bearer {stack.key}"},
        trust_env=False,
    )
    archive.raise_for_status()
    with zipfile.ZipFile(io.BytesIO(archive.content)) as bundle:
        assert "adapter_model.safetensors" in bundle.namelist()


def test_each_service_is_its_own_role(stack: Stack) -> None:
    url = (stack.folder / "secrets/database_url_owner").read_text()
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT DISTINCT usename FROM pg_stat_activity WHERE datname = 'attune'")
        assert {"attune_web", "attune_worker"} <= {row[0] for row in rows}


def test_the_operator_key_is_for_its_owner_alone(stack: Stack) -> None:
    assert (stack.folder / "operator/key").stat().st_mode & 0o777 == 0o600


def test_redis_wants_its_password(stack: Stack) -> None:
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(host="127.0.0.1", port=stack.ports["redis"], retry=Retry(NoBackoff(), 0)).ping()
    redis.Redis.from_url((stack.folder / "secrets/broker_url").read_text()).ping()


def test_no_secret_reaches_a_log(stack: Stack) -> None:
    logs = "".join(stack.log(name) for name in stack.running)
    for path in (stack.folder / "secrets").iterdir():
        secret = path.read_text()
        assert not secret or secret not in logs, path.name
    assert stack.key not in logs
