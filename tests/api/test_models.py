"""Models: listed, looked at, downloaded whole and in part, deleted."""

from __future__ import annotations

import openai
import pytest

from core.jobs import claims
from core.settings import Settings
from tests import services
from tests.api.place import BASE, Place, Tenant, place


@pytest.fixture
def trained(web: Place, tenant: Tenant) -> str:
    job_id = tenant.job(attune={"label": "here"})
    web.prepare(job_id)
    return web.publish(web.start(job_id), 9, final=True)


def test_bases_and_own_models_are_listed(tenant: Tenant, trained: str) -> None:
    listed = {model.id: model for model in tenant.openai.models.list()}
    assert {BASE, trained, "Qwen/Qwen3-0.6B"} <= listed.keys()
    assert listed[trained].owned_by.startswith("tenant")
    shown = tenant.openai.models.retrieve(trained).to_dict()["attune"]
    assert isinstance(shown, dict)
    assert (shown["kind"], shown["base_model"], shown["proof"]) == ("fine_tuned", BASE, {"passed": True})
    for path in ("tiny/base", "tiny%2Fbase"):
        assert tenant.http.get(f"/v1/models/{path}").json()["id"] == BASE


def test_an_adapter_is_downloaded(tenant: Tenant, trained: str) -> None:
    path = f"/v1/attune/models/{trained}"
    whole = tenant.http.get(f"{path}/download")
    assert whole.content == b"PK" + bytes(5000)
    assert whole.headers["content-type"] == "application/zip"
    assert '.zip"' in whole.headers["content-disposition"]
    part = tenant.http.get(f"{path}/download", headers={"Range": "bytes=0-1"})
    assert (part.status_code, part.content) == (206, b"PK")
    tensors = tenant.http.get(f"{path}/files/adapter_model.safetensors")
    assert tensors.content == bytes(range(256)) * 40
    for wrong in ("../../secret", "adapter.zip", "no.txt"):
        answer = tenant.http.get(f"{path}/files/{wrong}")
        assert answer.status_code == 404
    assert "adapter_config.json" in tenant.http.get(f"{path}/files/no.txt").json()["error"]["message"]


def test_a_deleted_model_is_gone(tenant: Tenant, trained: str) -> None:
    assert tenant.openai.models.delete(trained).deleted
    with pytest.raises(openai.NotFoundError, match="does not exist") as gone:
        tenant.openai.models.retrieve(trained)
    assert gone.value.code == "model_not_found"
    assert tenant.http.get(f"/v1/attune/models/{trained}/download").status_code == 404
    with pytest.raises(openai.PermissionDeniedError):
        tenant.openai.models.delete(BASE)


def test_a_store_with_a_public_address_hands_out_itself(
    tmp_path_factory: pytest.TempPathFactory, s3_server: services.S3
) -> None:
    values = {n.removeprefix("ATTUNE_").lower(): v for n, v in s3_server.settings(s3_server.create_bucket()).items()}
    values["storage_public_url"] = f"http://localhost:{s3_server.port}"
    folder = tmp_path_factory.mktemp("public")
    with place(Settings(data_dir=folder, log_level="warning", **values)) as web:  # type: ignore[arg-type]
        tenant = web.tenant()
        job_id = tenant.job()
        web.prepare(job_id)
        model_id = web.publish(web.start(job_id), 9, final=True)
        with tenant.http as http:
            answer = http.get(f"/v1/attune/models/{model_id}/download")
            assert answer.status_code == 307
            assert answer.headers["location"].startswith(f"http://localhost:{s3_server.port}/")
            followed = http.get(f"/v1/attune/models/{model_id}/download", follow_redirects=True)
            assert followed.content == b"PK" + bytes(5000)


def test_the_log_of_a_job_can_be_read(web: Place, tenant: Tenant) -> None:
    job_id = tenant.job(attune={"label": "here"})
    web.prepare(job_id)
    claim = web.start(job_id)
    keys = [f"projects/{tenant.project_id}/jobs/{job_id}/{n}/engine.log" for n in (1, 2)]
    web.storage.put_bytes(keys[0], b"step 1\n")
    with web.database.begin() as session:
        claims.report(session, claim, log_keys=keys)
    text = tenant.http.get(f"/v1/attune/fine_tuning/jobs/{job_id}/log").text
    assert "step 1" in text
    assert "(removed)" in text
