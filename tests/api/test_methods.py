"""The methods of a job as a client chooses them: what is accepted, what contradicts itself, and what is echoed."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from core.jobs import claims
from core.spec import Method
from tests.api.place import BASE, RESOLVED, Place, Tenant
from tests.preferences import pairs

AUTO = {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}


def dpo(**hyperparameters: object) -> dict[str, Any]:
    return {"type": "dpo", "dpo": {"hyperparameters": hyperparameters}}


@pytest.fixture
def pair_file(tenant: Tenant) -> str:
    return tenant.upload(pairs(12, seed=1), "pairs.jsonl")


@pytest.mark.parametrize("older", [False, True])
def test_c30_pairs_are_taken_in_both_spellings(tenant: Tenant, older: bool) -> None:
    file_id = tenant.upload(pairs(12, seed=1, older=older), "pairs.jsonl")
    file = tenant.openai.files.retrieve(file_id)
    assert file.status == "processed"
    assert file.to_dict()["attune"]["examples"] == 12  # type: ignore[index]
    job = tenant.openai.fine_tuning.jobs.create(model=BASE, training_file=file_id, method={"type": "dpo"})
    assert job.status == "validating_files"


def test_c30_a_faulty_pair_is_found_at_upload(tenant: Tenant) -> None:
    file = tenant.upload(b'{"input":{"messages":[]},"preferred_output":[],"non_preferred_output":[]}\n')
    shown = tenant.openai.files.retrieve(file).to_dict()
    assert shown["status"] == "error"
    found = [(finding["code"], finding["field"]) for finding in shown["attune"]["findings"]]  # type: ignore[index]
    assert found == [("wrong_type", name) for name in ("input.messages", "preferred_output", "non_preferred_output")]
    with pytest.raises(openai.BadRequestError, match=r"line 1, input\.messages"):
        tenant.openai.fine_tuning.jobs.create(model=BASE, training_file=file, method={"type": "dpo"})


def test_c5_every_auto_of_dpo_is_echoed_and_then_a_number(web: Place, tenant: Tenant, pair_file: str) -> None:
    job_id = tenant.job(training_file=pair_file, method=dpo(**AUTO, beta="auto"))
    shown = tenant.http.get(f"/v1/fine_tuning/jobs/{job_id}").json()
    assert shown["hyperparameters"] == AUTO  # the official client demands an object
    assert shown["method"] == {"type": "dpo", "supervised": None, "dpo": {"hyperparameters": {**AUTO, "beta": "auto"}}}
    assert shown["attune"]["requested"]["beta"] == "auto"
    resolved = RESOLVED.model_copy(update={"method": Method.DPO, "beta": 0.1})
    with web.database.begin() as session:
        while (claim := claims.claim_preparation(session, "prepare", 600)) is not None and claim.job_id != job_id:
            pass
        assert claim is not None
        assert claims.prepared(
            session, claim, resolved=resolved, reasons={"beta": "the paper's"}, plan={}, required_bytes=1,
            template_date="2026-01-01",
        )  # fmt: skip
    job = tenant.openai.fine_tuning.jobs.retrieve(job_id)
    assert job.method is not None
    assert job.method.dpo is not None
    assert job.method.dpo.hyperparameters is not None
    assert job.method.dpo.hyperparameters.to_dict() == {
        "n_epochs": 3, "batch_size": 4, "learning_rate_multiplier": 1.0, "beta": 0.1,
    }  # fmt: skip
    attune: Any = job.to_dict()["attune"]
    assert (attune["resolved"]["method"], attune["resolved"]["beta"]) == ("dpo", 0.1)
    assert attune["reasons"]["beta"]


def test_c6_dpo_takes_the_older_place_too_and_refuses_contradictions(tenant: Tenant, pair_file: str) -> None:
    job_id = tenant.job(
        training_file=pair_file, hyperparameters={"n_epochs": 2, "batch_size": 8}, method=dpo(n_epochs=2, beta=0.5)
    )
    shown = tenant.http.get(f"/v1/fine_tuning/jobs/{job_id}").json()["method"]["dpo"]["hyperparameters"]
    assert shown == {"n_epochs": 2, "batch_size": 8, "learning_rate_multiplier": "auto", "beta": 0.5}
    for name, older, newer in (("n_epochs", 2, 3), ("batch_size", 4, "auto"), ("learning_rate_multiplier", 1, 0.5)):
        with pytest.raises(openai.BadRequestError, match=f"{name} is {older}") as refused:
            tenant.openai.fine_tuning.jobs.create(
                model=BASE,
                training_file=pair_file,
                hyperparameters={name: older},  # type: ignore[misc]
                method=dpo(**{name: newer}),  # type: ignore[arg-type]
            )
        assert (refused.value.code, refused.value.param) == ("contradicting_hyperparameters", f"hyperparameters.{name}")


_REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"method": dpo(beta=0)}, "method.dpo.hyperparameters.beta"),
    ({"method": dpo(beta=2.1)}, "method.dpo.hyperparameters.beta"),
    ({"method": dpo(beta="0.1")}, "method.dpo.hyperparameters.beta"),
    ({"method": dpo(n_epochs=0)}, "method.dpo.hyperparameters.n_epochs"),
    ({"method": dpo(gamma=1)}, "method.dpo.hyperparameters.gamma"),
    ({"method": dpo(learning_rate_multiplier=1000)}, "hyperparameters.learning_rate_multiplier"),
    (
        {"method": {"type": "supervised", "supervised": {"hyperparameters": {"beta": 0.1}}}},
        "method.supervised.hyperparameters.beta",
    ),
    ({"method": {**dpo(n_epochs=1), "type": "supervised"}}, "method.dpo"),
    ({"method": {"type": "dpo", "supervised": {"hyperparameters": {"n_epochs": 3}}}}, "method.supervised"),
    ({"method": {**dpo(), "reinforcement": {"grader": {}}}}, "method.reinforcement"),
    ({"method": {"type": "reinforcement"}}, "method.type"),
    ({"method": {"dpo": {}}}, "method.type"),
]  # fmt: skip


def test_what_does_not_fit_a_method_names_its_field(tenant: Tenant, pair_file: str) -> None:
    before = tenant.left()
    with tenant.http as http:
        for wrong, param in _REFUSED:
            answer = http.post("/v1/fine_tuning/jobs", json={"model": BASE, "training_file": pair_file, **wrong})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), (wrong, answer.text)
    assert tenant.left() == before


def test_reinforcement_names_what_to_use_instead(tenant: Tenant) -> None:
    grader = {"type": "string_check", "name": "same", "input": "a", "reference": "b", "operation": "eq"}
    with pytest.raises(openai.BadRequestError) as refused:
        tenant.openai.fine_tuning.jobs.create(
            model=BASE,
            training_file=tenant.upload(),
            method={"type": "reinforcement", "reinforcement": {"grader": grader}},  # type: ignore[typeddict-item]
        )
    assert (refused.value.code, refused.value.param) == ("unsupported_method", "method.type")
    assert "'supervised'" in refused.value.message
    assert "'dpo'" in refused.value.message


def test_a_supervised_job_echoes_no_other_method(tenant: Tenant) -> None:
    shown = tenant.http.get(f"/v1/fine_tuning/jobs/{tenant.job()}").json()
    assert shown["hyperparameters"] == AUTO
    assert shown["method"] == {"type": "supervised", "supervised": {"hyperparameters": AUTO}, "dpo": None}
