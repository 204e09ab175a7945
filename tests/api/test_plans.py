"""The plan before the start: a dry run makes no job, asks for the counts it lacks, and then answers in full."""

from __future__ import annotations

import time
from typing import Any

import pytest

from core.models import BaseModelRow, Job, Worker
from core.planning.models import Throughput, TokenCount
from core.prepare import Preparer
from tests.api.place import Place, Tenant, examples
from tests.engine.tiny_base import make_base
from tests.preferences import pairs

REAL = "tiny/counted"
GIB = 1024**3


@pytest.fixture
def base(web: Place) -> str:
    """A base whose tokenizer lies in the models folder, not yet looked at; two workers, one of them too small."""
    with web.database.begin() as session:
        if session.get(BaseModelRow, REAL) is None:
            make_base(web.settings.resolved_models_dir / "counted")
            session.add(BaseModelRow(id=REAL, source="folder", location="counted", revision="", status="available"))
        for name, memory in (("large", 64 * GIB), ("small", GIB // 16)):
            session.merge(
                Worker(
                    id=name, incarnation="1", host="here", pid=1, device="cpu", device_name="CPU of a test",
                    memory_bytes=memory, labels=[], state="idle", versions={}, price_per_hour=3.6, beat_at=time.time(),
                )
            )  # fmt: skip
    return REAL


def dry_run(tenant: Tenant, file_id: str, **fields: Any) -> Any:
    ours = {"dry_run": True, **fields.pop("attune", {})}
    return tenant.http.post(
        "/v1/fine_tuning/jobs", json={"model": REAL, "training_file": file_id, "attune": ours, **fields}
    )


def counted(web: Place, tenant: Tenant, data: bytes | None = None) -> str:
    """A file whose counts are there."""
    file_id = tenant.upload(examples(40) if data is None else data)
    assert dry_run(tenant, file_id).status_code == 202
    Preparer(web.settings).look()
    return file_id


def test_a_dry_run_is_preparing_then_ready_and_leaves_no_job(web: Place, tenant: Tenant, base: str) -> None:
    file_id = tenant.upload(examples(40))
    first = dry_run(tenant, file_id)
    assert (first.status_code, first.headers["retry-after"]) == (202, "1")
    assert first.json()["status"] == "preparing"
    assert first.json()["workers"] is None
    Preparer(web.settings).look()
    answer = dry_run(tenant, file_id)
    assert answer.status_code == 200, answer.text
    plan = answer.json()
    assert (plan["object"], plan["status"], plan["training"]["examples"]) == ("attune.plan", "ready", 40)
    assert plan["total_steps"] == plan["hyperparameters"]["total_steps"] > 0
    assert plan["trained_tokens"] == plan["training"]["tokens"] * plan["hyperparameters"]["n_epochs"]
    assert 0 < plan["supervised_tokens"] < plan["trained_tokens"]
    assert plan["trainable_share"] == pytest.approx(plan["trainable_parameters"] / plan["total_parameters"], abs=1e-6)
    assert all(len(reason) > 3 for reason in plan["reasons"].values())
    with web.database.read() as session:
        assert session.query(Job).where(Job.project_id == tenant.project_id).count() == 0
    # What it says is what the job becomes
    job_id = tenant.job(model=REAL, training_file=file_id)
    Preparer(web.settings).look()
    job = tenant.http.get(f"/v1/fine_tuning/jobs/{job_id}").json()["attune"]
    assert (job["resolved"], job["reasons"]) == (plan["hyperparameters"], plan["reasons"])


def test_each_worker_says_whether_it_fits_and_why_not(web: Place, tenant: Tenant, base: str) -> None:
    file_id = counted(web, tenant)
    workers = {one["worker"]: one for one in dry_run(tenant, file_id).json()["workers"]}
    large, small = workers["large"], workers["small"]
    assert large["fits"]
    assert large["required_bytes"] == sum(large["memory"].values()) < large["memory_bytes"]
    assert not small["fits"]
    assert "has 0.1 GiB" in small["why"]
    labelled = dry_run(tenant, file_id, attune={"label": "gpu"}).json()
    assert {one["fits"] for one in labelled["workers"]} == {False}
    assert "labelled 'gpu'" in labelled["workers"][0]["why"]
    assert labelled["finishes_at"] is None


def test_time_and_cost_come_from_what_was_measured(web: Place, tenant: Tenant, base: str) -> None:
    file_id = counted(web, tenant)
    unknown = dry_run(tenant, file_id).json()
    assert (unknown["takes_s"], unknown["cost"], unknown["finishes_at"]) == (None, None, None)
    measured = Throughput(
        device_name="CPU of a test", base_model=REAL, quantization="nf4", training="lora", tokens_per_s=100.0
    )
    with web.database.begin() as session:
        session.add(measured)
    try:
        plan = dry_run(tenant, file_id).json()
        assert plan["takes_s"] == pytest.approx(plan["trained_tokens"] / 100.0, abs=0.1)
        assert plan["cost"] == pytest.approx(plan["takes_s"] / 1000, abs=1e-3)
        assert plan["finishes_at"] - plan["starts_at"] == pytest.approx(plan["takes_s"], abs=1.1)
        other = dry_run(tenant, file_id, attune={"quantization": "none"}).json()["workers"][0]
        assert "quantization nf4" in other["measured_on"]
    finally:
        with web.database.begin() as session:
            session.delete(session.get_one(Throughput, ("CPU of a test", REAL, "nf4", "lora")))


def test_sliders_move_the_plan_in_time(web: Place, tenant: Tenant, base: str) -> None:
    file_id = counted(web, tenant)

    def ask(**ours: Any) -> Any:
        body = {"model": REAL, "training_file": file_id, "attune": ours}
        answer = tenant.http.post("/v1/attune/plans", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    low, high = ask(lora={"rank": 4}), ask(lora={"rank": 64})
    assert high["trainable_parameters"] == 16 * low["trainable_parameters"]
    assert high["workers"][0]["memory"]["optimizer"] == 16 * low["workers"][0]["memory"]["optimizer"]
    cut = ask(max_example_tokens=16, too_long="truncate")["training"]
    assert (cut["truncated"], cut["longest_tokens"]) == (40, 16)
    times: list[float] = []
    for rank in range(1, 12):
        begun = time.perf_counter()
        ask(lora={"rank": rank})
        times.append(time.perf_counter() - begun)
    assert min(times) < 0.2


def test_counts_stand_in_for_files(web: Place, tenant: Tenant, base: str) -> None:
    counted(web, tenant)  # the base is known from here on
    counts = {"examples": 500, "tokens": 60_000, "supervised_tokens": 20_000, "longest_tokens": 300}
    body = {"model": REAL, "training_counts": counts}
    plan = tenant.http.post("/v1/attune/plans", json=body).json()
    assert plan["training"] == {**counts, "dropped": 0, "truncated": 0}
    neither = tenant.http.post("/v1/attune/plans", json={"model": REAL})
    assert (neither.status_code, neither.json()["error"]["param"]) == (400, "training_file")


def test_what_refuses_the_job_refuses_the_plan(web: Place, tenant: Tenant, base: str) -> None:
    stranger = web.tenant("plan-stranger")
    file_id = counted(web, tenant)
    foreign = dry_run(stranger, file_id)
    assert foreign.status_code in (400, 404)
    assert dry_run(tenant, file_id, attune={"max_example_tokens": 9}).json()["error"]["code"] == "example_too_long"
    assert dry_run(tenant, file_id, attune={"rank": 3}).status_code == 400
    refused = dry_run(tenant, tenant.upload(pairs(12, seed=1)))
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "wrong_method")
    assert refused.json()["error"]["param"] == "training_file"
    with web.database.read() as session:
        rows = session.query(TokenCount).where(TokenCount.project_id == stranger.project_id).count()
    assert rows == 0
