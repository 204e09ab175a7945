"""Jobs as a client sees them, without a worker: what one would write is written through core.jobs.claims."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from core.access import tenancy
from core.jobs import claims, job_files, losses
from core.jobs.jobs import NewEvent
from core.models import Job
from core.planning.measured_run import MeasuredRun
from core.spec import Execution
from tests.api.place import BASE, RESOLVED, Place, Tenant, examples

REQUIRED = (
    "created_at error finished_at fine_tuned_model hyperparameters id model object organization_id result_files "
    "status trained_tokens training_file validation_file seed"
)


def test_a_new_job_has_every_field(tenant: Tenant) -> None:
    training, validation = tenant.upload(), tenant.upload()
    job = tenant.openai.fine_tuning.jobs.create(
        model=BASE,
        training_file=training,
        validation_file=validation,
        suffix="naïve 模型",
        metadata={"team": "a"},
        extra_body={"attune": {"lora": {"rank": 4}, "priority": 3, "label": "here", "max_duration_s": 60}},
    )
    shown = tenant.http.get(f"/v1/fine_tuning/jobs/{job.id}").json()
    assert set(REQUIRED.split()) <= shown.keys()
    assert (shown["status"], shown["object"]) == ("validating_files", "fine_tuning.job")
    assert (shown["training_file"], shown["validation_file"]) == (training, validation)
    assert shown["error"] is None
    assert shown["hyperparameters"] == dict.fromkeys(("n_epochs", "batch_size", "learning_rate_multiplier"), "auto")
    assert shown["method"]["supervised"]["hyperparameters"] == shown["hyperparameters"]
    assert 0 <= shown["seed"] < 2**31
    assert (shown["user_provided_suffix"], shown["metadata"]) == ("naïve 模型", {"team": "a"})
    assert shown["result_files"] == []
    assert shown["attune"]["requested"]["lora"]["rank"] == 4
    assert (shown["attune"]["plan"], shown["attune"]["run"], shown["attune"]["attempts_lost"]) == (None, None, 0)
    assert (shown["attune"]["priority"], shown["attune"]["label"], shown["attune"]["max_duration_s"]) == (3, "here", 60)


def test_a_create_is_one_transaction_of_few_statements(tenant: Tenant) -> None:
    """Each is a trip to the server, of which a create may cost no more than it has to."""
    file_id = tenant.upload()
    tenant.job(training_file=file_id)
    seen: list[str] = []

    def note(_: object, __: object, statement: str, *___: object) -> None:
        if tenancy.current() == tenant.project_id:  # and no janitor's
            seen.append(statement.split(" ", 1)[0])

    event.listen(Engine, "before_cursor_execute", note)
    try:
        tenant.job(training_file=file_id)
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    begun = ["BEGIN"] if tenant.place.database.is_sqlite else ["BEGIN;"]  # and with it what the transaction starts with
    # an earlier arrival; project, file and base; then job, events, what made it, audit
    assert seen == begun + ["SELECT"] * 2 + ["INSERT"] * 4


def test_choices_may_stand_in_either_place(tenant: Tenant) -> None:
    file_id = tenant.upload()
    older = {"n_epochs": 2, "batch_size": 8}
    newer = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "learning_rate_multiplier": 0.5}}}
    job_id = tenant.job(training_file=file_id, hyperparameters=older, method=newer, seed=11)
    job = tenant.openai.fine_tuning.jobs.retrieve(job_id)
    assert job.hyperparameters.to_dict() == {"n_epochs": 2, "batch_size": 8, "learning_rate_multiplier": 0.5}
    assert job.seed == 11
    with pytest.raises(openai.BadRequestError) as refused:
        tenant.openai.fine_tuning.jobs.create(
            model=BASE, training_file=file_id, hyperparameters={"n_epochs": 3}, method=newer,  # type: ignore[arg-type]
        )  # fmt: skip
    assert refused.value.code == "contradicting_hyperparameters"


def test_unknown_fields_are_answered_with_warnings(tenant: Tenant) -> None:
    job_id = tenant.job(colour="red")
    events = tenant.http.get(f"/v1/fine_tuning/jobs/{job_id}/events").json()["data"][::-1]
    assert [event["level"] for event in events] == ["info", "warn", "info"]
    assert events[1]["message"] == "ignored field 'colour'"
    assert events[0]["message"] == f"Created fine-tuning job: {job_id}"


_WRONG: list[tuple[dict[str, Any], int, str | None]] = [
    ({"model": "no-such-model"}, 404, "model"),
    ({"model": "../../etc/passwd"}, 404, "model"),
    ({"model": "http://127.0.0.1/x"}, 404, "model"),
    ({"model": "m" * 300}, 400, "model"),
    ({"model": None}, 400, "model"),
    ({"training_file": "file-of-nobody"}, 404, "training_file"),
    ({"training_file": 7}, 400, "training_file"),
    ({"validation_file": "file-of-nobody"}, 404, "validation_file"),
    ({"hyperparameters": {"n_epochs": 0}}, 400, "hyperparameters.n_epochs"),
    ({"hyperparameters": {"n_epochs": 10**9}}, 400, "hyperparameters.n_epochs"),
    ({"hyperparameters": {"n_epochs": "3"}}, 400, "hyperparameters.n_epochs"),
    ({"hyperparameters": {"n_epochs": 2.5}}, 400, "hyperparameters.n_epochs"),
    ({"hyperparameters": {"n_epochs": True}}, 400, "hyperparameters.n_epochs"),
    ({"hyperparameters": {"batch_size": 0}}, 400, "hyperparameters.batch_size"),
    ({"hyperparameters": {"learning_rate_multiplier": -1}}, 400, "hyperparameters.learning_rate_multiplier"),
    ({"hyperparameters": {"learning_rate_multiplier": "auto "}}, 400, "hyperparameters.learning_rate_multiplier"),
    ({"hyperparameters": {"learning_rate_multiplier": 1000}}, 400, "hyperparameters.learning_rate_multiplier"),
    ({"hyperparameters": {"beta": 1}}, 400, "hyperparameters.beta"),
    ({"method": {"type": "reinforcement"}}, 400, "method.type"),
    ({"method": {"type": "magic"}}, 400, "method.type"),
    ({"attune": {"lora": {"rank": 0}}}, 400, "attune.lora.rank"),
    ({"attune": {"lora": {"rank": 10**6}}}, 400, "attune.lora.rank"),
    ({"attune": {"lora": {"rnk": 8}}}, 400, "attune.lora.rnk"),
    ({"attune": {"lora": {"scale": 1.0, "alpha": 16.0}}}, 400, "attune.lora"),
    ({"attune": {"lora": {"target_modules": ["q;rm"]}}}, 400, "attune.lora.target_modules[0]"),
    ({"attune": {"dryrun": True}}, 400, "attune.dryrun"),
    ({"seed": -1}, 400, "seed"),
    ({"seed": 2**63}, 400, "seed"),
    ({"suffix": ""}, 400, "suffix"),
    ({"suffix": "s" * 65}, 400, "suffix"),
    ({"suffix": "a\x00b"}, 400, "suffix"),
    ({"metadata": {str(n): "" for n in range(17)}}, 400, "metadata"),
    ({"metadata": {"a": "v" * 513}}, 400, "metadata.a"),
    ({"metadata": {"a": {"b": "c"}}}, 400, "metadata.a"),
    ({"status": "succeeded"}, 400, "status"),
    ({"fine_tuned_model": "ft:x"}, 400, "fine_tuned_model"),
    ({"attempt": 3}, 400, "attempt"),
]


def test_every_wrong_choice_names_its_field(tenant: Tenant) -> None:
    good = {"model": BASE, "training_file": tenant.upload()}
    before = tenant.left()
    with tenant.http as http:
        for wrong, status, param in _WRONG:
            answer = http.post("/v1/fine_tuning/jobs", json={**good, **wrong})
            error = answer.json()["error"]
            assert (answer.status_code, error["param"]) == (status, param), (wrong, error)
            assert error["message"]
            assert error["code"]
            assert answer.headers["x-should-retry"] == "false"
    assert tenant.left() == before


def test_a_file_has_to_be_fit_for_training(tenant: Tenant) -> None:
    faulty = tenant.upload(b'{"messages":[]}\n')
    with pytest.raises(openai.BadRequestError, match="line 1") as refused:
        tenant.openai.fine_tuning.jobs.create(model=BASE, training_file=faulty)
    assert refused.value.param == "training_file"
    other = tenant.openai.files.create(file=("a.jsonl", examples(12)), purpose="user_data").id
    with pytest.raises(openai.BadRequestError, match="user_data") as refused:
        tenant.openai.fine_tuning.jobs.create(model=BASE, training_file=tenant.upload(), validation_file=other)
    assert (refused.value.param, refused.value.code) == ("validation_file", "invalid_file_purpose")
    gone = tenant.upload()
    tenant.openai.files.delete(gone)
    with pytest.raises(openai.NotFoundError):
        tenant.openai.fine_tuning.jobs.create(model=BASE, training_file=gone)


def test_a_waiting_job_pauses_resumes_and_is_cancelled(web: Place, tenant: Tenant) -> None:
    jobs = tenant.openai.fine_tuning.jobs
    job_id = tenant.job()
    with pytest.raises(openai.BadRequestError, match="validating_files"):
        jobs.pause(job_id)
    web.prepare(job_id)
    queued = jobs.retrieve(job_id)
    assert queued.status == "queued"
    assert queued.hyperparameters.n_epochs == RESOLVED.n_epochs
    assert jobs.pause(job_id).status == "paused"
    assert jobs.pause(job_id).status == "paused"
    assert jobs.resume(job_id).status == "queued"
    assert jobs.cancel(job_id).status == "cancelled"
    assert jobs.cancel(job_id).status == "cancelled"
    for call in (jobs.pause, jobs.resume):
        with pytest.raises(openai.BadRequestError) as refused:
            call(job_id)
        assert refused.value.response.headers["x-should-retry"] == "false"


def test_a_running_job_is_asked_and_ends_once(web: Place, tenant: Tenant) -> None:
    jobs = tenant.openai.fine_tuning.jobs
    job_id = tenant.job(attune={"label": "here"})
    web.prepare(job_id)
    claim = web.start(job_id)
    assert jobs.pause(job_id).status == "running"
    with web.database.begin() as session:
        flags = claims.report(session, claim, [], reported_step=4, seconds_left=30)
    assert flags is not None
    assert flags.pause
    running = jobs.retrieve(job_id)
    assert running.estimated_finish is not None
    assert running.to_dict()["attune"]["progress"] == {"step": 4, "total_steps": 9, "snapshot_step": 0}  # type: ignore[index]
    model_id = web.publish(claim, 9, final=True)
    done = jobs.retrieve(job_id)
    assert (done.status, done.fine_tuned_model, done.trained_tokens) == ("succeeded", model_id, 1234)
    assert done.estimated_finish is None
    assert done.finished_at is not None
    assert len(done.result_files) == 1
    with pytest.raises(openai.BadRequestError, match="already succeeded"):
        jobs.cancel(job_id)


def test_a_run_is_shown_beside_its_plan_and_a_lost_attempt_is_counted(web: Place, tenant: Tenant) -> None:
    job_id = tenant.job(attune={"label": "here"})
    web.prepare(job_id)
    claim = web.start(job_id)
    run = MeasuredRun(
        device="cpu", device_name="CPU", planned_memory_bytes={"weights": 300}, planned_s=None, peak_memory_bytes=250
    )  # fmt: skip
    execution = Execution(precision="float32", micro_tokens=512, threads=1)
    with web.database.begin() as session:
        assert claims.started(session, claim, execution=execution, run=run, template_hash="t", total_steps=9)
    ours = tenant.http.get(f"/v1/fine_tuning/jobs/{job_id}").json()["attune"]
    assert ours["run"] == run.model_dump()
    assert (ours["plan"], ours["attempts_lost"]) == ({"training_tokens": 99}, 0)
    with web.database.begin() as session:
        assert losses.lose(session, claim, "the engine crashed")
    ours = tenant.http.get(f"/v1/fine_tuning/jobs/{job_id}").json()["attune"]
    assert (ours["run"], ours["attempts_lost"]) == (run.model_dump(), 1)
    tenant.openai.fine_tuning.jobs.cancel(job_id)


def test_a_job_continues_from_a_model_or_any_of_its_checkpoints(web: Place, tenant: Tenant) -> None:
    job_id = tenant.job(attune={"label": "here"})
    web.prepare(job_id)
    claim = web.start(job_id)
    begun_from = {web.publish(claim, 8): "adapter-8", web.publish(claim, 16, final=True): "adapter-16"}
    for model, folder in begun_from.items():
        continued = tenant.job(model=model)
        shown = tenant.openai.fine_tuning.jobs.retrieve(continued)
        assert (shown.model, shown.to_dict()["attune"]["requested"]["lora"]["rank"]) == (model, RESOLVED.lora.rank)
        with web.database.read() as session:
            start = job_files.inputs_of(session, session.get_one(Job, continued)).start_model
        assert start is not None
        assert start.storage_prefix.endswith(folder)
        with pytest.raises(
            openai.BadRequestError, match=r"trained with rank \d+, and training goes on with it"
        ) as refused:
            tenant.openai.fine_tuning.jobs.create(
                model=model, training_file=tenant.upload(), extra_body={"attune": {"lora": {"rank": 99}}}
            )
        assert refused.value.code == "start_model_mismatch"


def test_a_failed_job_says_why(web: Place, tenant: Tenant) -> None:
    job_id = tenant.job(attune={"label": "here"})
    web.prepare(job_id)
    claim = web.start(job_id)
    with web.database.begin() as session:
        assert claims.fail(session, claim, code="out_of_memory", message="too big")
    job = tenant.openai.fine_tuning.jobs.retrieve(job_id)
    assert job.error is not None
    assert (job.status, job.error.code, job.error.message) == ("failed", "out_of_memory", "too big")


def test_events_come_newest_first_without_a_gap(web: Place, tenant: Tenant) -> None:
    job_id = tenant.job(attune={"label": "here"})
    web.prepare(job_id)
    claim = web.start(job_id)
    steps = [
        NewEvent(f"Step {n}/9: training loss=1.00", type="metrics", data={"step": n, "train_loss": 1.0})
        for n in range(1, 10)
    ]
    with web.database.begin() as session:
        claims.report(session, claim, steps)
    events = tenant.openai.fine_tuning.jobs.list_events
    every = list(events(job_id, limit=4))
    assert len(every) == 13
    assert len({event.id for event in every}) == 13
    assert every[-1].message == f"Created fine-tuning job: {job_id}"
    assert every[9].message == "Fine-tuning job started"
    assert every[9].data is None
    assert [event.type for event in every[:9]] == ["metrics"] * 9
    assert [event.to_dict()["data"]["step"] for event in every[:9]] == list(range(9, 0, -1))  # type: ignore[index]
    exact = events(job_id, limit=13)
    assert len(exact.data) == 13
    assert not exact.has_more
    with pytest.raises(openai.BadRequestError) as refused:
        events(job_id, after="ftevent-none")
    assert refused.value.param == "after"


def test_checkpoints_and_the_models_they_name(web: Place, tenant: Tenant) -> None:
    job_id = tenant.job(attune={"label": "here"})
    web.prepare(job_id)
    claim = web.start(job_id)
    models = [web.publish(claim, step) for step in (3, 6)] + [web.publish(claim, 9, final=True)]
    page = tenant.http.get(f"/v1/fine_tuning/jobs/{job_id}/checkpoints", params={"limit": 2}).json()
    assert [row["fine_tuned_model_checkpoint"] for row in page["data"]] == models[:0:-1]
    assert page["first_id"] == page["data"][0]["id"]
    assert page["has_more"]
    listed = list(tenant.openai.fine_tuning.jobs.checkpoints.list(job_id, limit=2))
    assert [row.step_number for row in listed] == [9, 6, 3]
    assert listed[0].metrics.train_loss == 0.5
    follow_up = tenant.job(model=models[0])
    attune = tenant.http.get(f"/v1/fine_tuning/jobs/{follow_up}").json()["attune"]
    assert attune["base_model"] == BASE
    assert attune["requested"]["lora"]["rank"] == RESOLVED.lora.rank
    with pytest.raises(openai.BadRequestError) as refused:
        tenant.openai.models.delete(models[0])
    assert refused.value.code == "model_in_use"
    with pytest.raises(openai.BadRequestError) as refused:
        tenant.openai.fine_tuning.jobs.create(
            model=models[0], training_file=tenant.upload(), extra_body={"attune": {"lora": {"rank": 32}}}
        )
    assert refused.value.param == "attune.lora.rank"


def test_lists_filter_by_metadata(tenant: Tenant) -> None:
    file_id = tenant.upload()
    red = [tenant.job(training_file=file_id, metadata={"colour": "red", "n": str(n)}) for n in range(3)]
    bare = tenant.job(training_file=file_id)
    jobs = tenant.openai.fine_tuning.jobs
    assert [job.id for job in jobs.list(limit=2)] == [bare, *red[::-1]]
    assert [job.id for job in jobs.list(metadata={"colour": "red"}, limit=2)] == red[::-1]
    assert [job.id for job in jobs.list(metadata={"colour": "red", "n": "1"})] == [red[1]]
    assert [job.id for job in jobs.list(extra_query={"metadata": "null"})] == [bare]
    for limit in ("0", "-1", "101", "x"):
        answer = tenant.http.get("/v1/fine_tuning/jobs", params={"limit": limit})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "limit")
