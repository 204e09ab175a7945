"""The main path over the embedded defaults, as users walk it: upload, train, watch, chat, download; and every kill.

One service and one base for the whole module; the official client does all that it can.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import math
import random
import shutil
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.live import BASE, Live, tiny_service, wait_for_step, wait_until_ended
from tests.preferences import pairs

QUICK = {"lora": {"rank": 4, "dropout": 0.05}}
ANSWERS = ("the customer asks", "send it to Berlin", "three blue shirts", "today")


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with tiny_service(tmp_path_factory.mktemp("live"), {"WANDB_MODE": "offline"}) as service:
        yield service


@pytest.fixture(scope="module")
def client(live: Live) -> OpenAI:
    return live.client()


def examples(count: int) -> bytes:
    """A training file that a base of random weights learns within a few epochs."""
    rows = [
        [{"role": "user", "content": f"order {n}?"}, {"role": "assistant", "content": ANSWERS[n % len(ANSWERS)]}]
        for n in range(count)
    ]
    return "\n".join(json.dumps({"messages": row}) for row in rows).encode()


def upload(client: OpenAI, data: bytes, name: str = "training.jsonl") -> str:
    return client.files.create(file=(name, data), purpose="fine-tune").id


@pytest.fixture(scope="module")
def training_file(client: OpenAI) -> str:
    return upload(client, examples(64))


def create(client: OpenAI, training_file: str, epochs: int = 6, **more: object) -> str:
    hyperparameters = {"n_epochs": epochs, "batch_size": 8, "learning_rate_multiplier": 1.0}
    return client.fine_tuning.jobs.create(
        model=BASE,
        training_file=training_file,
        seed=11,
        extra_body={"attune": QUICK},
        method={"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
        **more,  # pyright: ignore[reportArgumentType]
    ).id


def adapter_sha256(live: Live, model: str) -> str:
    with live.http() as http:
        archive = http.get(f"/v1/attune/models/{model}/download")
    archive.raise_for_status()
    with zipfile.ZipFile(io.BytesIO(archive.content)) as bundle:
        tensors = bundle.read("adapter_model.safetensors")
    return hashlib.sha256(tensors).hexdigest()


def test_from_an_uploaded_file_to_a_model_that_answers_and_downloads(
    live: Live, client: OpenAI, training_file: str
) -> None:
    validation = upload(client, examples(16), "validation.jsonl")
    job_id = create(client, training_file, suffix="My Answers", validation_file=validation)
    job = wait_until_ended(client, job_id)
    assert job.status == "succeeded", job.error
    assert job.fine_tuned_model is not None
    assert job.fine_tuned_model.startswith(f"ft:{BASE}:default:my-answers:")
    assert job.hyperparameters.n_epochs == 6
    assert job.trained_tokens

    events = list(client.fine_tuning.jobs.list_events(job_id, limit=100))
    texts = [event.message for event in reversed(events)]
    assert texts[0] == f"Created fine-tuning job: {job_id}"
    assert texts[-1] == "The job has successfully completed"
    steps = [event.data["step"] for event in reversed(events) if event.type == "metrics"]  # type: ignore[index]
    assert steps == list(range(1, 49))

    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(job_id))
    assert [checkpoint.step_number for checkpoint in checkpoints] == [48, 40, 32, 24]
    assert checkpoints[0].fine_tuned_model_checkpoint == job.fine_tuned_model
    for model in (job.fine_tuned_model, checkpoints[1].fine_tuned_model_checkpoint, BASE):
        answer = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "order 5?"}], max_tokens=8, temperature=0
        )
        assert answer.choices[0].finish_reason in ("stop", "length")
        chunks = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "order 5?"}],
            max_tokens=8,
            temperature=0,
            stream=True,
        )
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert streamed == answer.choices[0].message.content

    with live.http() as http:
        proof = http.get(f"/v1/models/{job.fine_tuned_model}").json()["attune"]["proof"]
        assert proof["passed"]
        assert len(proof["checks"]) == 6
        log = http.get(f"/v1/attune/fine_tuning/jobs/{job_id}/log")
        assert "step 48/48" in log.text
        whole = http.get(f"/v1/attune/models/{job.fine_tuned_model}/download")
        part = http.get(f"/v1/attune/models/{job.fine_tuned_model}/download", headers={"Range": "bytes=10-19"})
        manifest = http.get(f"/v1/attune/models/{job.fine_tuned_model}/files/attune.json")
    assert part.status_code == httpx.codes.PARTIAL_CONTENT
    assert part.content == whole.content[10:20]
    with zipfile.ZipFile(io.BytesIO(whole.content)) as bundle:
        assert bundle.testzip() is None
        names = set(bundle.namelist())
        assert bundle.read("attune.json") == manifest.content
    assert {"adapter_config.json", "adapter_model.safetensors", "attune.json", "README.md"} <= names
    table = client.files.content(job.result_files[0]).text
    assert table.splitlines()[0] == "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy"
    assert len(table.splitlines()) == 49

    continued = client.fine_tuning.jobs.create(model=job.fine_tuned_model, training_file=training_file, seed=1)
    ended = wait_until_ended(client, continued.id)
    assert ended.status == "succeeded", ended.error
    assert ended.model == job.fine_tuned_model


def test_a_base_of_nobody_and_a_file_too_small_are_explained(client: OpenAI, training_file: str) -> None:
    with pytest.raises(openai.NotFoundError, match="nobody/nothing"):
        client.fine_tuning.jobs.create(model="nobody/nothing", training_file=training_file)
    few = upload(client, examples(3))
    job = client.fine_tuning.jobs.create(model=BASE, training_file=few)
    job = wait_until_ended(client, job.id)
    assert job.status == "failed"
    assert job.error is not None
    assert job.error.code == "invalid_n_examples"
    assert job.error.message == "Training file has 3 example(s), but must have at least 10 examples"
    assert job.error.param == "training_file"
    silent = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]
    unsupervised = upload(client, b"\n".join([json.dumps({"messages": silent}).encode()] * 12))
    with pytest.raises(openai.BadRequestError, match="line 1, messages: every assistant message has weight 0"):
        client.fine_tuning.jobs.create(model=BASE, training_file=unsupervised)


def test_c30_preferences_train_from_either_spelling(live: Live, client: OpenAI, training_file: str) -> None:
    """A dpo job over a file that has both spellings, from an adapter's first step to its proven end."""
    both = upload(client, pairs(12, seed=1) + pairs(12, seed=2, older=True), "pairs.jsonl")
    job = client.fine_tuning.jobs.create(
        model=BASE,
        training_file=both,
        validation_file=upload(client, pairs(8, seed=3), "held_out.jsonl"),
        method={"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 2, "batch_size": 4, "beta": "auto"}}},
        extra_body={"attune": QUICK},
    )
    job = wait_until_ended(client, job.id)
    assert job.status == "succeeded", job.error
    assert job.method is not None
    assert job.method.dpo is not None
    chosen = job.method.dpo.hyperparameters
    assert chosen is not None
    assert (chosen.n_epochs, chosen.batch_size, chosen.learning_rate_multiplier, chosen.beta) == (2, 4, 1.0, 0.1)
    assert {"beta", "n_epochs", "learning_rate"} <= job.to_dict()["attune"]["reasons"].keys()  # type: ignore[index]
    events = client.fine_tuning.jobs.list_events(job.id, limit=100)
    metrics = [event.to_dict()["data"] for event in events if event.type == "metrics"]
    assert [data["step"] for data in metrics] == list(range(12, 0, -1))  # type: ignore[index]
    assert {"train_loss", "train_mean_token_accuracy", "rewards_accuracy", "rewards_margin"} <= metrics[0].keys()  # type: ignore[union-attr]
    assert metrics[-1]["train_loss"] == pytest.approx(0.693, abs=0.02)  # type: ignore[index]
    assert metrics[0]["full_valid_loss"] < 0.693  # type: ignore[index]
    with live.http() as http:
        assert http.get(f"/v1/models/{job.fine_tuned_model}").json()["attune"]["proof"]["passed"]
    assert job.fine_tuned_model is not None
    answer = client.chat.completions.create(
        model=job.fine_tuned_model, messages=[{"role": "user", "content": "Please send 3 lamps to Rome"}], max_tokens=8
    )
    assert answer.choices[0].finish_reason in ("stop", "length")

    with pytest.raises(openai.BadRequestError) as refused:
        client.fine_tuning.jobs.create(model=BASE, training_file=training_file, method={"type": "dpo"})
    assert (refused.value.code, refused.value.param) == ("wrong_method", "training_file")


def test_too_long_lines_samples_early_stopping_and_perplexity_are_told(client: OpenAI, training_file: str) -> None:
    """What a user chose beyond the usual, as the finished job and its events show it."""
    long_row = [{"role": "user", "content": "order? " * 400}, {"role": "assistant", "content": ANSWERS[0]}]
    data = examples(64) + b"\n" + json.dumps({"messages": long_row}).encode()
    prompt = [{"role": "user", "content": "order 5?"}]
    job = client.fine_tuning.jobs.create(
        model=BASE,
        training_file=upload(client, data),
        validation_file=upload(client, examples(16), "validation.jsonl"),
        hyperparameters={"n_epochs": 6, "batch_size": 8},
        extra_body={
            "attune": {
                **QUICK,
                "too_long": "drop",
                "quantization": "fp4",
                "schedule": "cosine",
                "sample_prompts": [prompt, "order 6?"],
                "early_stopping_patience": 50,
                "compare_quantizations": True,
            }
        },
    )
    job = wait_until_ended(client, job.id)
    assert job.status == "succeeded", job.error
    ours: Any = job.to_dict()["attune"]
    assert (ours["plan"]["training_examples"], ours["plan"]["dropped_examples"]) == (64, 1)
    assert ours["resolved"]["schedule"] == "cosine"
    report = ours["report"]
    assert report["steps"] == 48
    assert report["validation_perplexity"] == pytest.approx(math.exp(report["validation_loss"]))
    assert report["perplexities"].keys() == {"none", "int8", "nf4"}

    events = [event.to_dict() for event in client.fine_tuning.jobs.list_events(job.id, limit=200)]
    texts = [str(event["message"]) for event in events]
    assert any("1 example is longer than 512 tokens and left out: lines 65" in text for text in texts)
    assert any(f"the weights of step {report['step']}, with the lowest validation loss" in text for text in texts)
    samples: list[Any] = [event["data"] for event in events if "prompt" in (event["data"] or {})]  # type: ignore[operator]
    assert {sample["step"] for sample in samples} >= {8, 40}
    assert all(sample["prompt"] in (prompt, "order 6?") for sample in samples)
    final = [sample["answer"] for sample in samples if sample["step"] == report["step"] and sample["prompt"] == prompt]
    answer = client.chat.completions.create(
        model=job.fine_tuned_model or "",
        messages=prompt,
        max_tokens=128,
        temperature=0,  # type: ignore[arg-type]
    )
    assert answer.choices[0].message.content in final

    with pytest.raises(openai.BadRequestError, match=r"n_epochs and max_steps both say") as caught:
        client.fine_tuning.jobs.create(
            model=BASE,
            training_file=training_file,
            hyperparameters={"n_epochs": 2},
            extra_body={"attune": {"max_steps": 3}},
        )
    assert (caught.value.code, caught.value.param) == ("contradicting_choices", "attune.max_steps")


def test_a_wholly_trained_model_is_published_served_downloaded_and_can_be_a_base(
    live: Live, client: OpenAI, training_file: str, tmp_path: Path
) -> None:
    job = client.fine_tuning.jobs.create(
        model=BASE,
        training_file=training_file,
        hyperparameters={"n_epochs": 6, "batch_size": 8, "learning_rate_multiplier": 5},
        extra_body={"attune": {"training": "full"}},
    )
    job = wait_until_ended(client, job.id)
    assert job.status == "succeeded", job.error
    model = job.fine_tuned_model or ""
    question: Any = {"messages": [{"role": "user", "content": "order 5?"}], "max_tokens": 8, "temperature": 0}
    answer = client.chat.completions.create(model=model, **question).choices[0].message.content
    with live.http() as http:
        archive = http.get(f"/v1/attune/models/{model}/download")
    with zipfile.ZipFile(io.BytesIO(archive.content)) as bundle:
        bundle.extractall(tmp_path)
    assert {"model.safetensors", "config.json", "tokenizer.json", "attune.json"} <= {
        path.name for path in tmp_path.iterdir()
    }
    with pytest.raises(openai.BadRequestError, match="is a whole model and no adapter"):
        client.fine_tuning.jobs.create(model=model, training_file=training_file)

    shutil.copytree(tmp_path, live.data / "models/tuned")
    with live.http() as http:
        http.post("/v1/attune/base_models", json={"location": "tuned", "source": "folder"}).raise_for_status()
        deadline = time.monotonic() + 20
        while http.get("/v1/models/tuned").json()["attune"]["status"] != "ready":
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert client.chat.completions.create(model="tuned", **question).choices[0].message.content
    assert answer


@pytest.fixture(scope="module")
def undisturbed(live: Live, client: OpenAI, training_file: str) -> str:
    """The sha256 of the adapter of a run of 25 epochs that nothing befell."""
    job = wait_until_ended(client, create(client, training_file, epochs=25))
    return adapter_sha256(live, job.fine_tuned_model or "")


def test_cancel_pause_and_resume_of_a_running_job(
    live: Live, client: OpenAI, training_file: str, undisturbed: str
) -> None:
    cancelled = create(client, training_file, epochs=50)
    wait_for_step(client, cancelled, 3)
    client.fine_tuning.jobs.cancel(cancelled)
    assert wait_until_ended(client, cancelled, 15).status == "cancelled"

    paused = create(client, training_file, epochs=25)
    wait_for_step(client, paused, 5)
    client.fine_tuning.jobs.pause(paused)
    deadline = time.monotonic() + 15
    while client.fine_tuning.jobs.retrieve(paused).status != "paused":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    client.fine_tuning.jobs.resume(paused)
    job = wait_until_ended(client, paused)
    assert job.status == "succeeded", job.error
    assert adapter_sha256(live, job.fine_tuned_model or "") == undisturbed


@pytest.mark.parametrize("part", ["worker.engine", "worker.app", "api.app"])
def test_a_kill_costs_time_and_nothing_else(
    live: Live, client: OpenAI, training_file: str, undisturbed: str, part: str
) -> None:
    """kill -9 of engine, worker or web process in a running job: the same bytes as an undisturbed run."""
    job_id = create(client, training_file, epochs=25)
    wait_for_step(client, job_id, random.Random(part).randrange(5, 120))
    victims = live.processes(part)
    assert victims
    victims[0].kill()
    job = wait_until_ended(client.with_options(max_retries=8), job_id)
    assert job.status == "succeeded", job.error
    assert adapter_sha256(live, job.fine_tuned_model or "") == undisturbed
    events = client.with_options(max_retries=8).fine_tuning.jobs.list_events(job_id, limit=100)
    steps = sorted(event.data["step"] for event in events if event.type == "metrics")  # type: ignore[index]
    assert steps == list(range(1, 201))


def test_nothing_of_a_job_is_left_in_the_work_folder(live: Live) -> None:
    jobs = next(live.data.glob("work/*/jobs"))
    deadline = time.monotonic() + 10  # a job's end is visible before its folder is gone
    while left := [path.name for path in jobs.iterdir()]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def test_the_web_process_is_light(live: Live) -> None:
    web = live.processes("api.app")[0]
    assert web.memory_info().rss < 250 * 2**20
    maps = Path(f"/proc/{web.pid}/maps").read_text()
    assert "libtorch" not in maps
    worker = live.processes("worker.app")[0]
    assert worker.memory_info().rss < 300 * 2**20


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_c39_integrations_are_fed_and_echoed_and_a_broken_one_costs_a_warning(
    live: Live, client: OpenAI, training_file: str, tmp_path: Path
) -> None:
    job = client.fine_tuning.jobs.create(
        model=BASE,
        training_file=training_file,
        hyperparameters={"n_epochs": 1},
        integrations=[
            {"type": "wandb", "wandb": {"project": "no/such/name"}},
            {"type": "wandb", "wandb": {"project": "support", "entity": "team", "tags": ["blue"]}},
        ],
        extra_body={"attune": {**QUICK, "integrations": [{"type": "mlflow"}, {"type": "tensorboard"}]}},
    )
    ended = wait_until_ended(client, job.id)
    assert ended.status == "succeeded", ended.error
    assert ended.integrations is not None
    broken, good = ended.integrations
    assert good.wandb.to_dict() == {
        "project": "support", "entity": "team", "name": None, "tags": ["blue"], "run_id": f"{job.id}-1",
    }  # fmt: skip
    assert "run_id" not in broken.wandb.to_dict()
    events = client.fine_tuning.jobs.list_events(job.id, limit=100).data
    assert [event.level for event in events if "The integration wandb failed" in event.message] == ["warn"]
    assert [event.level for event in events if "Metrics go to Weights & Biases" in event.message] == ["info"]
    [run] = (live.data / "wandb").glob(f"offline-run-*-{job.id}-1/*.wandb")
    assert b"train_loss" in run.read_bytes()

    said = [event.level for event in events if "The integration mlflow failed" in event.message]
    assert said == ["warn"], "no server is configured here"
    ours: Any = ended.to_dict()["attune"]
    mlflow, board = ours["integrations"]
    assert mlflow == {"type": "mlflow", "mlflow": {"tracking_uri": None, "experiment": None, "run_name": None}}
    table, event_file = ended.result_files
    assert client.files.content(table).text.startswith("step,train_loss")
    name = client.files.retrieve(event_file).filename
    assert board == {"type": "tensorboard", "tensorboard": {"file_id": event_file, "filename": name}}
    client.files.content(event_file).write_to_file(tmp_path / name)
    read = EventAccumulator(str(tmp_path)).Reload()
    recorded: list[Any] = [event.data for event in reversed(events) if event.type == "metrics"]
    for metric in ("train_loss", "train_mean_token_accuracy", "learning_rate", "grad_norm"):
        scalars = [(one.step, one.value) for one in read.Scalars(metric)]
        assert scalars == [(data["step"], pytest.approx(data[metric])) for data in recorded]
    assert len(recorded) > 1
