"""Keys: who may make which, what the project headers choose, and how soon an end is an end."""

from __future__ import annotations

import threading
import time

import openai
import pytest
from openai import OpenAI
from sqlalchemy import update

from api.gate.recent import HELD_S
from core.access import projects
from core.access.projects import SEEN_EVERY_S, Scope
from core.db import db_now
from core.models import ApiKey
from tests.api.place import Place, Tenant

ALL = list(Scope)


@pytest.fixture
def led(web: Place) -> Tenant:
    """A project whose key is an admin's."""
    return web.tenant("led", scopes=ALL)


def test_an_admin_manages_the_keys_of_its_project(web: Place, led: Tenant, tenant: Tenant) -> None:
    with led.http as http:
        made = http.post("/v1/attune/keys", json={"name": "bot", "scopes": ["inference"], "expires_in_s": 3600}).json()
        assert (made["project_id"], made["scopes"], made["is_operator"]) == (led.project_id, ["inference"], False)
        assert abs(made["expires_at"] - made["created_at"] - 3600) <= 1
        listed = http.get("/v1/attune/keys").json()["data"]
        assert [key["name"] for key in listed] == ["bot", "made"]
        assert all(key["key"] is None and key["project_id"] == led.project_id for key in listed)
        usual = http.post("/v1/attune/keys", json={"name": "usual"}).json()
        assert usual["scopes"] == ["read", "write", "inference"]
        assert http.delete(f"/v1/attune/keys/{made['id']}").json()["deleted"]
        with web.client(made["key"]) as revoked:
            assert revoked.get("/v1/models").status_code == 401

        operator = http.post("/v1/attune/keys", json={"name": "x", "is_operator": True})
        assert (operator.status_code, operator.json()["error"]["code"]) == (403, "operator_required")
        theirs, random = tenant.project_id, "proj_" + "0" * 24
        for said in (
            [http.get("/v1/attune/keys", params={"project_id": project}) for project in (theirs, random)],
            [http.post("/v1/attune/keys", json={"name": "x", "project_id": project}) for project in (theirs, random)],
        ):
            assert [answer.status_code for answer in said] == [404, 404]
            assert said[0].text.replace(theirs, random) == said[1].text
        for wrong in ({"scopes": []}, {"scopes": ["all"]}, {"expires_in_s": 0}, {"expires_in_s": 10**12}):
            answer = http.post("/v1/attune/keys", json={"name": "x", **wrong})
            assert answer.status_code == 400, wrong
            assert answer.json()["error"]["param"].startswith(next(iter(wrong)))


def test_a_project_has_a_bounded_number_of_keys(led: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projects, "MAX_KEYS", 2)  # one of them is the admin's own
    with led.http as http:
        answers = [http.post("/v1/attune/keys", json={"name": "more"}) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 400]
        assert answers[1].json()["error"]["code"] == "too_many_keys"
        http.delete(f"/v1/attune/keys/{answers[0].json()['id']}")
        assert http.post("/v1/attune/keys", json={"name": "more"}).status_code == 200


def test_an_admin_of_the_operators_project_does_not_touch_operators(web: Place) -> None:
    with web.operator as http:
        operator = next(key for key in http.get("/v1/attune/keys").json()["data"] if key["is_operator"])
        assert operator["scopes"] == ["read", "write", "inference", "admin"]
        both = http.post("/v1/attune/keys", json={"name": "x", "is_operator": True, "scopes": ["read"]})
        assert both.json()["error"]["param"] == "scopes"
    with web.client(web.key(operator["project_id"], scopes=["admin"])) as http:
        assert not any(key["is_operator"] for key in http.get("/v1/attune/keys").json()["data"])
        assert http.delete(f"/v1/attune/keys/{operator['id']}").status_code == 404


def test_an_expiring_operators_key_is_not_the_last(web: Place) -> None:
    with web.operator as http:
        made = http.post("/v1/attune/keys", json={"name": "night", "is_operator": True, "expires_in_s": 3600}).json()
        lasting = next(
            key["id"]
            for key in http.get("/v1/attune/keys").json()["data"]
            if key["is_operator"] and key["expires_at"] is None
        )
        assert http.delete(f"/v1/attune/keys/{lasting}").json()["error"]["code"] == "last_operator_key"
        assert http.delete(f"/v1/attune/keys/{made['id']}").json()["deleted"]


def test_a_revocation_holds_within_a_second(web: Place, led: Tenant) -> None:
    """A client that asks without pause is refused at once, and for good."""
    with led.http as http:
        made = http.post("/v1/attune/keys", json={"name": "busy"}).json()
        last_good = [0.0]

        def ask_on() -> None:
            with web.client(made["key"]) as client:
                while client.get("/v1/models").status_code == 200:
                    last_good[0] = time.monotonic()

        thread = threading.Thread(target=ask_on)
        thread.start()
        while not last_good[0]:
            time.sleep(0.005)
        assert http.delete(f"/v1/attune/keys/{made['id']}").json()["deleted"]
        revoked_at = time.monotonic()
        thread.join(10)
        assert last_good[0] - revoked_at < 1.0
        with web.client(made["key"]) as client:
            assert client.get("/v1/models").status_code == 401


def test_an_expired_key_says_so(web: Place, tenant: Tenant) -> None:
    key = web.key(tenant.project_id, expires_in_s=3600)
    client = OpenAI(api_key=key, base_url=f"{web.url}/v1", max_retries=0)
    assert client.models.list().data
    with web.database.begin() as session:
        session.execute(update(ApiKey).where(ApiKey.prefix == key[: projects.SHOWN]).values(expires_at=db_now()))
    time.sleep(HELD_S)
    with pytest.raises(openai.AuthenticationError, match="expired"):
        client.models.list()


def test_the_last_use_is_written_once_a_minute(web: Place, tenant: Tenant) -> None:
    def used() -> float | None:
        with web.database.read() as session:
            return next(row.last_used_at for row in projects.keys(session, tenant.project_id))

    assert used() is None
    tenant.http.get("/v1/models")
    first = used()
    assert first is not None
    tenant.http.get("/v1/models")
    assert used() == first
    with web.database.begin() as session:
        old = first - SEEN_EVERY_S - 1
        session.execute(update(ApiKey).where(ApiKey.project_id == tenant.project_id).values(last_used_at=old))
    time.sleep(HELD_S)  # until then it is known without a look
    tenant.http.get("/v1/models")
    assert (used() or 0) >= first


def test_c36_the_project_headers_have_to_mean_the_keys_project(web: Place, tenant: Tenant) -> None:
    other = web.tenant("other")

    def client(**named: str) -> OpenAI:
        return OpenAI(api_key=tenant.key, base_url=f"{web.url}/v1", max_retries=0, **named)  # type: ignore[arg-type]

    assert client(project=tenant.project_id, organization=tenant.project_id).models.list().data
    assert client(project="", organization="").models.list().data
    for header, named in (("project", other.project_id), ("project", "proj_x"), ("organization", "org-x")):
        with pytest.raises(openai.AuthenticationError) as refused:
            client(**{header: named}).models.list()
        assert refused.value.code == f"mismatched_{header}"
        assert f"OpenAI-{header.capitalize()} header should match {header} for API key" in str(refused.value)


def test_c36_an_operator_acts_in_the_project_that_is_named(web: Place, tenant: Tenant) -> None:
    file_id = tenant.upload()
    with web.operator as http:
        slug = next(p["slug"] for p in http.get("/v1/attune/projects").json()["data"] if p["id"] == tenant.project_id)

    def client(**named: str) -> OpenAI:
        return OpenAI(api_key=web.operator_key, base_url=f"{web.url}/v1", max_retries=0, **named)  # type: ignore[arg-type]

    with pytest.raises(openai.NotFoundError):
        client().files.retrieve(file_id)
    for named in ({"project": tenant.project_id}, {"project": slug}, {"organization": slug}):
        assert client(**named).files.retrieve(file_id).id == file_id
    with pytest.raises(openai.AuthenticationError) as refused:
        client(project="proj_x").models.list()
    assert refused.value.code == "invalid_project"
    with pytest.raises(openai.AuthenticationError) as refused:
        client(project=slug, organization="default").models.list()
    assert refused.value.code == "mismatched_organization"
