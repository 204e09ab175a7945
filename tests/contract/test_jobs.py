"""Creating a job and ruling over it (C4 to C11, C23, C24, C38)."""

from __future__ import annotations

import time
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

from tests.contract.place import BASE, LORA, Project, choices, examples, raw, upload, wait_for_step, wait_until

THREE = ("n_epochs", "batch_size", "learning_rate_multiplier")
REQUIRED = (
    "created_at error finished_at fine_tuned_model hyperparameters id model object organization_id result_files "
    "status trained_tokens training_file validation_file seed"
)


def create(client: OpenAI, training_file: str, **fields: Any) -> FineTuningJob:
    """A job that is not meant to run long."""
    return client.fine_tuning.jobs.create(model=BASE, training_file=training_file, **fields)


def create_and_cancel(client: OpenAI, training_file: str, **fields: Any) -> FineTuningJob:
    job = create(client, training_file, **fields)
    client.fine_tuning.jobs.cancel(job.id)
    return job


def test_c04_create_answers_before_anything_is_validated(client: OpenAI, training_file: str) -> None:
    took = []
    for _ in range(3):
        begun = time.monotonic()
        job = create(client, training_file)
        took.append(time.monotonic() - begun)
        assert job.status == "validating_files"
        client.fine_tuning.jobs.cancel(job.id)
    assert min(took) < 1.0


def test_c04_bad_data_fails_the_job_and_not_the_request(client: OpenAI) -> None:
    job = create(client, upload(client, examples(3)))
    assert job.status == "validating_files"
    job = wait_until(client, job.id)
    assert job.status == "failed"
    assert job.error is not None
    assert (job.error.code, job.error.param) == ("invalid_n_examples", "training_file")
    assert job.error.message == "Training file has 3 example(s), but must have at least 10 examples"


def test_c05_auto_is_echoed_and_then_resolved(client: OpenAI, training_file: str) -> None:
    auto: Any = dict.fromkeys(THREE, "auto")
    job = create(client, training_file, hyperparameters=auto, extra_body=LORA)
    assert job.hyperparameters.to_dict() == auto
    job = wait_until(client, job.id, "queued", "running")
    client.fine_tuning.jobs.cancel(job.id)
    assert job.status in ("queued", "running", "succeeded")
    resolved: Any = job.hyperparameters.to_dict()
    assert all(isinstance(resolved[name], int | float) for name in THREE)
    assert job.method is not None
    assert job.method.to_dict()["supervised"]["hyperparameters"] == resolved
    ours: Any = job.to_dict()["attune"]
    assert all(ours["reasons"][name] for name in THREE)


def test_c06_choices_may_stand_in_either_place(client: OpenAI, training_file: str) -> None:
    older = create_and_cancel(client, training_file, hyperparameters={"n_epochs": 2})
    newer = create_and_cancel(client, training_file, method=choices(2))
    both = create_and_cancel(client, training_file, hyperparameters={"n_epochs": 2}, method=choices(2, batch_size=4))
    assert older.hyperparameters.n_epochs == newer.hyperparameters.n_epochs == both.hyperparameters.n_epochs == 2
    assert both.hyperparameters.batch_size == 4
    with pytest.raises(openai.BadRequestError, match="n_epochs is 3"):
        create(client, training_file, hyperparameters={"n_epochs": 3}, method=choices(2))


def test_c07_a_seed_is_made_or_kept(client: OpenAI, training_file: str) -> None:
    made = create_and_cancel(client, training_file)
    assert 0 <= made.seed < 2**31
    assert client.fine_tuning.jobs.retrieve(made.id).seed == made.seed
    assert create_and_cancel(client, training_file, seed=2**31 - 1).seed == 2**31 - 1
    with pytest.raises(openai.BadRequestError):
        create(client, training_file, seed=2**31)


def test_c08_every_field_is_always_present(client: OpenAI, training_file: str, trained: FineTuningJob) -> None:
    new = create_and_cancel(client, training_file)
    for job_id in (new.id, trained.id):
        shown = raw(client.fine_tuning.jobs.with_raw_response.retrieve(job_id))
        assert set(REQUIRED.split()) <= shown.keys()
    for shown in raw(client.fine_tuning.jobs.with_raw_response.list())["data"]:
        assert set(REQUIRED.split()) <= shown.keys()
    assert trained.trained_tokens
    assert trained.finished_at
    assert len(trained.result_files) == 1


def test_c09_error_is_null_or_whole(client: OpenAI, trained: FineTuningJob) -> None:
    """An object of nulls, as OpenAI itself has been seen to send, is refused by the strict client."""
    shown = raw(client.fine_tuning.jobs.with_raw_response.retrieve(trained.id))
    assert shown["error"] is None
    failed = wait_until(client, create(client, upload(client, examples(3))).id)
    shown = raw(client.fine_tuning.jobs.with_raw_response.retrieve(failed.id))
    assert shown["error"].keys() == {"code", "message", "param"}
    assert all(shown["error"].values())


def test_c10_suffixes(client: OpenAI, training_file: str, trained: FineTuningJob) -> None:
    assert trained.fine_tuned_model is not None
    assert trained.fine_tuned_model.split(":")[3] == "contract"
    for suffix in (None, "s" * 64, "naïve 模型 / x"):
        shown: Any = create_and_cancel(client, training_file, suffix=suffix).to_dict()
        assert shown["user_provided_suffix"] == suffix
    for suffix in ("", "s" * 65):
        with pytest.raises(openai.BadRequestError) as refused:
            create(client, training_file, suffix=suffix)
        assert refused.value.param == "suffix"


def test_c11_metadata_is_kept_limited_and_searched(fresh: Project) -> None:
    client = fresh.client()
    training_file = upload(client, examples(10))
    full = {"k" * 64: "v" * 512, **{f"key{n}": "x" for n in range(15)}}
    tagged = create_and_cancel(client, training_file, metadata={"team": "a", "run": "1"})
    other = create_and_cancel(client, training_file, metadata={"team": "b"})
    most = create_and_cancel(client, training_file, metadata=full)
    plain = create_and_cancel(client, training_file)
    assert client.fine_tuning.jobs.retrieve(most.id).metadata == full

    def found(**query: Any) -> list[str]:
        return [job.id for job in client.fine_tuning.jobs.list(**query)]

    assert found(metadata={"team": "a"}) == [tagged.id]
    assert found(metadata={"team": "b", "run": "1"}) == []
    assert found(extra_query={"metadata": "null"}) == [plain.id]
    assert found() == [plain.id, most.id, other.id, tagged.id]
    for wrong in ({"k" * 65: ""}, {"k": "v" * 513}, {**full, "one": "more"}):
        with pytest.raises(openai.BadRequestError):
            create(client, training_file, metadata=wrong)


def test_c23_cancel_may_be_repeated_and_never_conflicts(
    client: OpenAI, training_file: str, trained: FineTuningJob
) -> None:
    job = create(client, training_file)
    first = client.fine_tuning.jobs.cancel(job.id)
    assert first.status == "cancelled"
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError) as refused:
        client.fine_tuning.jobs.cancel(trained.id)
    assert refused.value.response.headers["x-should-retry"] == "false"
    with pytest.raises(openai.NotFoundError):
        client.fine_tuning.jobs.cancel("ftjob-none")


@pytest.mark.long
def test_c24_pause_and_resume(client: OpenAI, training_file: str) -> None:
    job = create(client, training_file, method=choices(50, batch_size=4), extra_body=LORA)
    wait_for_step(client, job.id, 3)
    client.fine_tuning.jobs.pause(job.id)
    assert wait_until(client, job.id, "paused").status == "paused"
    assert client.fine_tuning.jobs.resume(job.id).status == "queued"
    assert wait_until(client, job.id, "running").status == "running"
    client.fine_tuning.jobs.cancel(job.id)
    assert wait_until(client, job.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError):
        client.fine_tuning.jobs.resume(job.id)


def test_c38_unknown_fields_are_tolerated_and_told(client: OpenAI, training_file: str) -> None:
    job = create_and_cancel(client, training_file, extra_body={"colour": "red"})
    events = list(client.fine_tuning.jobs.list_events(job.id))
    assert [event.message for event in events if event.level == "warn"] == ["ignored field 'colour'"]
    with pytest.raises(openai.BadRequestError) as refused:
        create(client, training_file, extra_body={"attune": {"colour": "red"}})
    assert refused.value.param == "attune.colour"
    with pytest.raises(openai.BadRequestError) as refused:
        create(client, training_file, extra_body={"status": "succeeded"})
    assert refused.value.param == "status"
