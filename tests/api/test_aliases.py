"""Aliases: another name works wherever a model's id does, answers carry it, and it never hides a model."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from core.access.projects import Scope
from core.models import BaseModelRow
from core.serving.alias_models import ModelAlias
from tests.api.place import BASE, Place, Tenant
from tests.api.test_chat import CHUNKS, Seen, ask, seen  # noqa: F401  (a fixture)

OLD = "ft:gpt-4o-mini-2024-07-18:acme:tickets:AbC12345"


@pytest.fixture
def owner(web: Place) -> Tenant:
    return web.tenant("owner", scopes=list(Scope))


def trained(web: Place, tenant: Tenant) -> str:
    job_id = tenant.job(attune={"label": "here"})
    web.prepare(job_id)
    return web.publish(web.start(job_id), 9, final=True)


def made(tenant: Tenant, name: str, model: str) -> httpx.Response:
    return tenant.http.post("/v1/attune/aliases", json={"id": name, "model": model})


def code_of(answer: httpx.Response) -> Any:
    return answer.json()["error"]["code"]


def test_an_old_name_works_wherever_a_models_id_does(
    web: Place,
    owner: Tenant,
    seen: Seen,  # noqa: F811
) -> None:
    model = trained(web, owner)
    assert made(owner, OLD, model).json()["model"] == model
    strict = OpenAI(api_key=owner.key, base_url=f"{web.url}/v1", _strict_response_validation=True)
    messages: Any = [{"role": "user", "content": "hello"}]
    whole = strict.chat.completions.create(model=OLD, messages=messages)
    assert (whole.model, whole.choices[0].message.content) == (OLD, "HELLO")
    chunks = list(strict.chat.completions.create(model=OLD, messages=messages, stream=True))
    assert [chunk.model for chunk in chunks] == [OLD] * CHUNKS
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "0 1 2 3 4 "
    assert strict.completions.create(model=OLD, prompt="hello").model == OLD
    assert [body["model"] for body in seen.bodies] == [model] * 3, "the server is asked for the model itself"

    shown = strict.models.retrieve(OLD).to_dict()
    listed = {one.id: one.to_dict() for one in strict.models.list()}
    meant: Any = listed[model]
    assert listed[OLD] == shown == {**meant, "id": OLD, "attune": {**meant["attune"], "alias_of": model}}
    job = owner.openai.fine_tuning.jobs.create(model=OLD, training_file=owner.upload())
    assert job.model == model, "as OpenAI, which shows the snapshot that a short name meant"
    assert job.to_dict()["attune"]["base_model"] == BASE  # type: ignore[index]
    answer = owner.http.get(f"/v1/attune/models/{OLD}/files/adapter_config.json")
    assert (answer.status_code, answer.content) == (200, b"{}")
    owner.openai.fine_tuning.jobs.cancel(job.id)


def test_a_stream_that_breaks_says_so_under_an_alias_too(tenant: Tenant, seen: Seen) -> None:  # noqa: F811
    made(tenant, "short", BASE)
    messages: Any = [{"role": "user", "content": "break"}]
    with pytest.raises(openai.APIError, match="broke off"):
        list(tenant.openai.chat.completions.create(model="short", messages=messages, stream=True))
    messages[0]["content"] = "busy"
    refused = tenant.http.post("/v1/chat/completions", json={"model": "short", "messages": messages})
    assert (refused.status_code, code_of(refused)) == (503, "device_busy")


def test_an_alias_is_pointed_elsewhere_and_taken_away(
    web: Place,
    owner: Tenant,
    seen: Seen,  # noqa: F811
) -> None:
    model = trained(web, owner)
    made(owner, OLD, BASE)
    with owner.http as http:
        changed = http.post(f"/v1/attune/aliases/{OLD}", json={"model": model}).json()
        assert changed == http.get(f"/v1/attune/aliases/{OLD.replace(':', '%3A')}").json()
        assert (changed["model"], changed["usable"]) == (model, True)
        assert ask(owner, "hello", OLD) == "HELLO"
        assert seen.bodies[-1]["model"] == model
        with pytest.raises(openai.BadRequestError, match=f"answers to the alias '{OLD}'"):
            owner.openai.models.delete(model)
        with pytest.raises(openai.BadRequestError) as refused:
            owner.openai.models.delete(OLD)
        assert refused.value.code == "model_is_alias"
        assert http.delete(f"/v1/attune/aliases/{OLD}").json() == {"id": OLD, "object": "attune.alias", "deleted": True}
        assert code_of(http.get(f"/v1/attune/aliases/{OLD}")) == "alias_not_found"
        log = http.get("/v1/attune/audit_log").json()["data"]
        calls = [(row["method"], row["object_id"]) for row in log if row["route"].startswith("/v1/attune/aliases")]
        assert calls == [("DELETE", OLD), ("POST", OLD), ("POST", OLD)]
    with pytest.raises(openai.NotFoundError):
        ask(owner, "hello", OLD)
    assert owner.openai.models.delete(model).deleted


def test_an_alias_never_hides_a_model(web: Place, tenant: Tenant, seen: Seen) -> None:  # noqa: F811
    model = trained(web, tenant)
    for name in (BASE, model):
        assert code_of(made(tenant, name, BASE)) == "alias_is_model"
    assert made(tenant, "new/base", model).status_code == 200
    with web.database.begin() as session:
        session.add(BaseModelRow(id="new/base", source="folder", location="x", revision="r1", status="ready"))
    try:
        assert tenant.openai.models.retrieve("new/base").to_dict()["attune"]["kind"] == "base"  # type: ignore[index]
        assert [one.id for one in tenant.openai.models.list()].count("new/base") == 1
    finally:
        with web.database.begin() as session:
            session.delete(session.get_one(BaseModelRow, "new/base"))
    assert tenant.openai.models.retrieve("new/base").to_dict()["attune"]["alias_of"] == model  # type: ignore[index]


def test_what_cannot_be_an_alias_is_refused(tenant: Tenant) -> None:
    made(tenant, "short", BASE)
    assert code_of(made(tenant, "short", BASE)) == "alias_exists"
    assert code_of(made(tenant, "shorter", "short")) == "alias_of_alias"
    assert code_of(made(tenant, "short2", "ft:no:such::model")) == "model_not_found"
    for name in ("", "a b", "a/", "../x", "ü", "a?b", "x" * 257):
        answer = made(tenant, name, BASE)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "id"), name
    with tenant.http as http:
        assert code_of(http.post("/v1/attune/aliases/short", json={"model": "short"})) == "alias_of_alias"


def test_aliases_are_listed_in_pages(tenant: Tenant) -> None:
    for name in "bca":
        made(tenant, name, BASE)
    with tenant.http as http:
        first = http.get("/v1/attune/aliases", params={"limit": 2}).json()
        assert ([one["id"] for one in first["data"]], first["has_more"]) == (["a", "b"], True)
        rest = http.get("/v1/attune/aliases", params={"limit": 2, "after": first["last_id"]}).json()
        assert ([one["id"] for one in rest["data"]], rest["has_more"]) == (["c"], False)


def test_aliases_of_one_project_mean_nothing_to_another(web: Place, owner: Tenant, tenant: Tenant) -> None:
    model = trained(web, owner)
    made(owner, OLD, model)
    assert code_of(made(tenant, "mine", model)) == "model_not_found"
    assert made(tenant, OLD, BASE).status_code == 200, "names are a project's own"
    assert owner.openai.models.retrieve(OLD).to_dict()["attune"]["alias_of"] == model  # type: ignore[index]
    with pytest.raises(openai.NotFoundError):
        web.tenant("third").openai.models.retrieve(OLD)


def test_an_alias_of_a_shared_model_ends_with_the_permission(web: Place, owner: Tenant, tenant: Tenant) -> None:
    model = trained(web, owner)
    permissions = owner.openai.fine_tuning.checkpoints.permissions
    given = permissions.create(model, project_ids=[tenant.project_id]).data[0]
    assert made(tenant, OLD, model).status_code == 200
    permissions.delete(given.id, fine_tuned_model_checkpoint=model)
    with pytest.raises(openai.NotFoundError, match="which is gone"):
        tenant.openai.models.retrieve(OLD)
    assert OLD not in {one.id for one in tenant.openai.models.list()}
    assert tenant.http.get("/v1/attune/aliases").json()["data"][0]["usable"] is False
    assert owner.openai.models.delete(model).deleted, "another's alias does not stand in the owner's way"


def test_an_erased_project_leaves_no_alias(web: Place, tenant: Tenant) -> None:
    made(tenant, OLD, BASE)
    with web.operator as http:
        assert http.delete(f"/v1/attune/projects/{tenant.project_id}").json()["deleted"]
    with web.database.read() as session:
        assert session.query(ModelAlias).filter_by(project_id=tenant.project_id).count() == 0
