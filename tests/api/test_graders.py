"""Graders through the official client, in its strict mode."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.api.place import Place, Tenant

CITY: dict[str, Any] = {
    "type": "string_check",
    "name": "city",
    "input": "{{ sample.output_json.city }}",
    "reference": "{{ item.city }}",
    "operation": "eq",
}
ALIKE: dict[str, Any] = {
    "type": "text_similarity",
    "name": "alike",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.text }}",
    "evaluation_metric": "fuzzy_match",
}
BOTH = {"type": "multi", "name": "both", "graders": {"a": CITY, "b": ALIKE}, "calculate_output": "(a + b) / 2"}


def strict(web: Place, tenant: Tenant) -> Any:
    client = OpenAI(api_key=tenant.key, base_url=f"{web.url}/v1", max_retries=0, _strict_response_validation=True)
    return client.fine_tuning.alpha.graders


def test_c1_graders_answer_as_the_client_reads_them(web: Place, tenant: Tenant) -> None:
    client = strict(web, tenant)
    for grader in (CITY, ALIKE):
        assert client.validate(grader=grader).grader.model_dump() == grader
    item = {"city": "Oslo", "text": '{"city": "Oslo"}'}
    ran = client.run(grader=BOTH, model_sample='{"city": "Oslo"}', item=item)
    assert (ran.reward, ran.sub_rewards) == (1.0, {"a": 1.0, "b": 1.0})
    assert (ran.metadata.name, ran.metadata.type, ran.metadata.scores) == ("both", "multi", {"a": 1.0, "b": 1.0})
    assert ran.metadata.execution_time >= 0
    errors = ran.metadata.errors.model_dump(by_alias=True)
    assert len(errors) == 14
    assert not any(errors.values())
    wrong = client.run(grader=BOTH, model_sample="no JSON", item=item)
    assert wrong.reward == 0
    assert [name for name, value in wrong.metadata.errors.model_dump(by_alias=True).items() if value] == [
        "sample_parse_error"
    ]


def test_what_is_not_run_here_is_refused(tenant: Tenant) -> None:
    client = tenant.openai.fine_tuning.alpha.graders
    with pytest.raises(openai.BadRequestError, match="string_check or text_similarity") as refused:
        client.validate(grader={"type": "python", "name": "p", "source": "def grade(s, i): return 1"})
    assert (refused.value.code, refused.value.param) == ("unsupported_grader", "grader.type")
    with tenant.http as http:
        assert http.post("/v1/fine_tuning/alpha/graders/validate", json={}).json()["error"]["param"] == "grader"
        surrogate = (
            b'{"grader": {"type": "string_check", "name": "\\ud800", "input": "", "reference": "", "operation": "eq"}}'
        )
        odd = http.post(
            "/v1/fine_tuning/alpha/graders/validate", content=surrogate, headers={"Content-Type": "application/json"}
        )
        assert odd.status_code == 400
        text = http.post("/v1/fine_tuning/alpha/graders/run", json={"grader": CITY, "model_sample": 1})
        assert (text.status_code, text.json()["error"]["param"]) == (400, "model_sample")
