"""Checkpoint permissions: another project may use what is shared with it, and no more, for as long as it is shared."""

from __future__ import annotations

import time
import warnings

import openai
import pytest
from openai import OpenAI

from core.access.projects import Scope
from tests.api.place import BASE, Place, Tenant
from tests.api.test_chat import Seen, ask, seen  # noqa: F401  (a fixture)


@pytest.fixture
def owner(web: Place) -> Tenant:
    return web.tenant("owner", scopes=list(Scope))


@pytest.fixture
def trained(web: Place, owner: Tenant) -> tuple[str, str]:
    """(checkpoint, final model)"""
    job_id = owner.job(attune={"label": "here"})
    web.prepare(job_id)
    claim = web.start(job_id)
    checkpoint = web.publish(claim, 3)
    return checkpoint, web.publish(claim, 9, final=True)


def test_c01_a_shared_model_is_used_and_not_taken(
    web: Place,
    owner: Tenant,
    tenant: Tenant,
    trained: tuple[str, str],
    seen: Seen,  # noqa: F811
) -> None:
    checkpoint, final = trained
    permissions = owner.openai.fine_tuning.checkpoints.permissions
    for model in (checkpoint, final):
        assert permissions.create(model, project_ids=[tenant.project_id]).data[0].project_id == tenant.project_id
    listed = {model.id: model for model in tenant.openai.models.list()}
    assert {checkpoint, final} <= listed.keys()
    assert listed[final].owned_by.startswith("owner")
    shown = tenant.openai.models.retrieve(final).to_dict()["attune"]
    assert isinstance(shown, dict)
    assert (shown["shared"], shown["job"], shown["files"]) == (True, None, None)
    assert owner.openai.models.retrieve(final).to_dict()["attune"]["shared"] is False  # type: ignore[index]

    assert ask(tenant, "hello", final) == "HELLO"
    job = tenant.openai.fine_tuning.jobs.create(model=checkpoint, training_file=tenant.upload())
    with pytest.raises(openai.BadRequestError, match="a job of a project that it is shared with") as in_use:
        owner.openai.models.delete(checkpoint)
    assert job.id not in str(in_use.value)
    tenant.openai.fine_tuning.jobs.cancel(job.id)

    with pytest.raises(openai.PermissionDeniedError) as refused:
        tenant.openai.models.delete(final)
    assert refused.value.code == "model_not_owned"
    for path in ("download", "files/adapter_config.json"):
        answer = tenant.http.get(f"/v1/attune/models/{final}/{path}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "model_not_owned")

    given = permissions.list(final).data[0]
    assert permissions.delete(given.id, fine_tuned_model_checkpoint=final).deleted
    with pytest.raises(openai.NotFoundError):
        tenant.openai.models.retrieve(final)
    with pytest.raises(openai.NotFoundError):
        ask(tenant, "hello", final)
    assert owner.openai.models.delete(checkpoint).deleted
    with pytest.raises(openai.NotFoundError):
        tenant.openai.models.retrieve(checkpoint)


def test_c01_permissions_are_listed_in_pages(web: Place, owner: Tenant, trained: tuple[str, str]) -> None:
    final = trained[1]
    client = OpenAI(api_key=owner.key, base_url=f"{web.url}/v1", _strict_response_validation=True)
    permissions = client.fine_tuning.checkpoints.permissions
    friends = [web.tenant(f"friend {number}").project_id for number in range(3)]
    made = []
    for friend in friends:
        made += permissions.create(final, project_ids=[friend, friend]).data
        time.sleep(0.01)  # pages go by time, which SQLite's clock counts in milliseconds
    assert [permission.project_id for permission in made] == friends
    again = permissions.create(final, project_ids=friends[:1]).data
    assert again == made[:1]
    assert [p.id for p in permissions.list(final, limit=1, order="ascending")] == [p.id for p in made]
    assert [p.id for p in permissions.list(final, limit=2)] == [p.id for p in reversed(made)]
    assert [p.id for p in permissions.list(final, project_id=friends[1])] == [made[1].id]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        page = permissions.retrieve(final, limit=2)
    assert (page.first_id, page.last_id, page.has_more) == (made[2].id, made[1].id, True)
    with owner.http as http:
        for wrong in ([owner.project_id], ["proj_x"], []):
            answer = http.post(f"/v1/fine_tuning/checkpoints/{final}/permissions", json={"project_ids": wrong})
            assert answer.status_code in (400, 404)
            assert answer.json()["error"]["param"] == "project_ids"
        answer = http.get(f"/v1/fine_tuning/checkpoints/{final}/permissions", params={"after": "cp_x"})
        assert answer.json()["error"]["code"] == "invalid_cursor"
        encoded = final.replace(":", "%3A")
        assert len(http.get(f"/v1/fine_tuning/checkpoints/{encoded}/permissions").json()["data"]) == 3


def test_ids_with_slashes_reach_the_route(owner: Tenant) -> None:
    for path in ("ft:a/b:org::x", "ft:a%2Fb:org::x"):
        answer = owner.http.get(f"/v1/fine_tuning/checkpoints/{path}/permissions")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
        assert "ft:a/b:org::x" in answer.json()["error"]["message"]


def test_only_the_owners_admins_and_operators_share(
    web: Place, owner: Tenant, tenant: Tenant, trained: tuple[str, str]
) -> None:
    final = trained[1]
    path = f"/v1/fine_tuning/checkpoints/{final}/permissions"
    body = {"project_ids": [tenant.project_id]}
    with web.client(web.key(owner.project_id)) as http:  # read, write, inference
        assert http.post(path, json=body).json()["error"]["code"] == "missing_scope"
    other = web.tenant("other", scopes=list(Scope))
    with other.http as http:
        theirs = http.post(path, json=body)
        random = http.post(path.replace(final, "ft:base:org::00000000"), json=body)
        assert theirs.status_code == random.status_code == 404
        assert theirs.text.replace(final, "ft:base:org::00000000") == random.text
    with web.operator as http:
        given = http.post(path, json=body).json()["data"][0]
    with web.client(web.key(tenant.project_id, scopes=["admin"])) as http:  # who is shared with shares no further
        assert http.get(path).status_code == 404
        assert http.delete(f"{path}/{given['id']}").status_code == 404
    assert final in {model.id for model in tenant.openai.models.list()}
    with web.operator as http:
        assert http.delete(f"{path}/{given['id']}").json() == {
            "id": given["id"],
            "object": "checkpoint.permission",
            "deleted": True,
        }
        assert http.delete(f"{path}/{given['id']}").json()["error"]["code"] == "permission_not_found"


def test_an_erased_owner_takes_its_shares_along(web: Place, owner: Tenant, trained: tuple[str, str]) -> None:
    friend = web.tenant("friend")
    owner.openai.fine_tuning.checkpoints.permissions.create(trained[1], project_ids=[friend.project_id])
    with web.operator as http:
        assert http.delete(f"/v1/attune/projects/{owner.project_id}").json()["deleted"]
    assert {model.id for model in friend.openai.models.list()}.isdisjoint(trained)
    assert BASE in {model.id for model in friend.openai.models.list()}
