"""Embedding: a token shows one job and nothing else, until its time or its key ends; other sites by list."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest
from pydantic import ValidationError

from core.settings import Settings
from tests.api.place import Place, Tenant, place

BOARD = "https://board.example.com"


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A place whose operator has listed a site."""
    data = tmp_path_factory.mktemp("listed")
    settings = Settings(data_dir=data, log_level="warning", cors_origins=BOARD, embed_origins=BOARD)
    with place(settings) as running:
        yield running


def made(tenant: Tenant, job: str, **body: int) -> httpx.Response:
    with tenant.http as http:
        return http.post(f"/v1/attune/fine_tuning/jobs/{job}/embed_tokens", json=body)


def test_a_token_shows_its_job_and_nothing_else(web: Place, tenant: Tenant) -> None:
    job, other = tenant.job(), tenant.job()
    answer = made(tenant, job).json()
    assert answer["path"] == f"/embed/jobs/{job}#token={answer['token']}"
    with web.client(answer["token"]) as http:
        assert http.get(f"/v1/fine_tuning/jobs/{job}").json()["id"] == job
        for path in ("events", "checkpoints"):
            assert http.get(f"/v1/fine_tuning/jobs/{job}/{path}").status_code == httpx.codes.OK
        refused = [
            http.get(f"/v1/fine_tuning/jobs/{other}"),
            http.get("/v1/fine_tuning/jobs"),
            http.get("/v1/files"),
            http.get("/v1/models"),
            http.get(f"/v1/attune/fine_tuning/jobs/{job}/log"),
            http.post(f"/v1/fine_tuning/jobs/{job}/cancel"),
            http.post(f"/v1/attune/fine_tuning/jobs/{job}/embed_tokens"),
            http.post("/v1/attune/sessions"),
        ]
    assert {answer.status_code for answer in refused} == {httpx.codes.FORBIDDEN}
    with tenant.http as http:
        assert http.get(f"/v1/fine_tuning/jobs/{job}").json()["status"] != "cancelled"


def test_an_operators_token_is_no_operators_key(web: Place, tenant: Tenant) -> None:
    job = tenant.job()
    with web.operator as http:
        headers = {"OpenAI-Project": tenant.project_id}
        token = http.post(f"/v1/attune/fine_tuning/jobs/{job}/embed_tokens", headers=headers).json()["token"]
    with web.client(token) as http:
        assert http.get(f"/v1/fine_tuning/jobs/{job}").status_code == httpx.codes.OK
        assert http.get("/v1/attune/workers").status_code == httpx.codes.FORBIDDEN


def test_a_token_is_of_ones_own_job(web: Place, tenant: Tenant) -> None:
    assert made(web.tenant(), tenant.job()).json()["error"]["code"] == "fine_tune_not_found"


def test_it_ends_at_its_time_and_with_its_key(web: Place, tenant: Tenant) -> None:
    job = tenant.job()
    token = made(tenant, job, expires_in_s=1).json()["token"]
    lasting = made(tenant, job).json()["token"]
    time.sleep(1.1)
    with web.client(token) as http:
        assert http.get(f"/v1/fine_tuning/jobs/{job}").json()["error"]["code"] == "embed_ended"
    with web.client(lasting) as http, web.operator as operator:
        assert http.get(f"/v1/fine_tuning/jobs/{job}").status_code == httpx.codes.OK
        operator.delete(f"/v1/attune/keys/{lasting.split('.')[0].removeprefix('attune-embed-')}")
        assert http.get(f"/v1/fine_tuning/jobs/{job}").status_code == httpx.codes.UNAUTHORIZED


@pytest.mark.parametrize("part", range(5))
def test_what_is_changed_in_a_token_breaks_its_signature(web: Place, tenant: Tenant, part: int) -> None:
    job, other = tenant.job(), tenant.job()
    parts = made(tenant, job).json()["token"].split(".")
    changed = ["attune-embed-key_AAAAAAAAAAAAAAAA", "proj_AAAA", other, str(int(time.time()) + 10**6), "0" * 64]
    parts[part] = changed[part]
    with web.client(".".join(parts)) as http:
        answer = http.get(f"/v1/fine_tuning/jobs/{other if part == 2 else job}")
    assert answer.json()["error"]["code"] == "embed_ended"
    assert answer.status_code == httpx.codes.UNAUTHORIZED


def test_only_listed_sites_may_frame_the_page(web: Place, listed: Place) -> None:
    with web.client() as http:
        page = http.get("/embed/jobs/ftjob-1")
        assert page.headers["content-security-policy"].endswith("frame-ancestors 'none'")
        assert page.headers["x-frame-options"] == "DENY"
    with listed.client() as http:
        page = http.get("/embed/jobs/ftjob-1")
        assert page.headers["content-security-policy"].endswith(f"frame-ancestors {BOARD}")
        assert "unsafe" not in page.headers["content-security-policy"]
        assert "x-frame-options" not in page.headers
        assert http.get("/healthz").headers["x-frame-options"] == "DENY"


def test_only_listed_sites_may_call_from_a_browser(web: Place, listed: Place) -> None:
    asked = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization"}
    with listed.client() as http:
        granted = http.options("/v1/files", headers={"Origin": BOARD, **asked})
        assert granted.headers["access-control-allow-origin"] == BOARD
        assert "access-control-allow-credentials" not in granted.headers
        refused = http.options("/v1/files", headers={"Origin": "https://evil.example", **asked})
        assert "access-control-allow-origin" not in refused.headers
        # also a refusal can be read by who is listed
        assert http.get("/v1/files", headers={"Origin": BOARD}).headers["access-control-allow-origin"] == BOARD
    with web.client() as http:
        assert (
            "access-control-allow-origin" not in http.options("/v1/files", headers={"Origin": BOARD, **asked}).headers
        )


@pytest.mark.parametrize(
    "listed", ["board.example.com", "https://a.example/path", "*", "https://a.example; script-src *"]
)
def test_what_is_no_origin_is_refused_at_the_start(listed: str) -> None:
    with pytest.raises(ValidationError, match="is no origin"):
        Settings(embed_origins=listed)
    with pytest.raises(ValidationError, match="is no origin"):
        Settings(cors_origins=listed)
