"""Who gets in and what a page may do: sign-in by key and by link, sessions, other sites, what never leaves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.dashboard.browser import grave_findings, sign_in
from tests.live import Live


def link(live: Live) -> str:
    with live.http() as http:
        token = http.post("/v1/attune/sign_in_links").json()["token"]
    return f"/dashboard/enter?link={token}"


@contextmanager
def enter(live: Live) -> Iterator[httpx.Client]:
    """A browser without a screen, signed in."""
    with httpx.Client(base_url=live.address, trust_env=False, timeout=20) as client:
        assert client.get(link(live)).headers["location"] == "/dashboard/"
        yield client


def test_a_key_signs_in_and_stands_nowhere_in_the_browser(live: Live, page: Page) -> None:
    page.goto(f"{live.address}/")
    page.get_by_label("API key").fill("sk-attune-wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("Incorrect API key")
    assert not grave_findings(page)
    sign_in(page, live.address, live.key, "/new")
    expect(page.get_by_role("heading", name="Train a model")).to_be_visible()
    kept = [cookie for cookie in page.context.cookies() if cookie["name"] == "attune_session"]
    assert [(cookie["httpOnly"], cookie["sameSite"], cookie["path"]) for cookie in kept] == [
        (True, "Lax", "/dashboard")
    ]
    token = kept[0]["value"]
    source = page.content() + page.evaluate("JSON.stringify([document.cookie, localStorage, sessionStorage])")
    for secret in (live.key, token):
        assert secret not in source
        assert secret not in page.url


def test_a_link_signs_in_once(live: Live) -> None:
    path = link(live)
    with httpx.Client(base_url=live.address, trust_env=False) as client:
        assert client.get(path).status_code == httpx.codes.SEE_OTHER
        assert client.get("/dashboard/").status_code == httpx.codes.OK
        again = client.get(path)
    assert again.status_code == httpx.codes.UNAUTHORIZED
    assert "has been used or has expired" in again.text
    token = parse_qs(urlsplit(path).query)["link"][0]
    refused = httpx.get(f"{live.address}/v1/files", headers={"Authorization": f"Bearer {token}"}, trust_env=False)
    assert refused.json()["error"]["code"] == "session_ended"


def test_signing_out_ends_the_session_itself(live: Live) -> None:
    with enter(live) as client:
        token = client.cookies["attune_session"]
        out = client.post("/dashboard/sign-out", headers={"Origin": live.address})
        assert out.headers["location"] == "/dashboard/sign-in"
    answer = httpx.get(f"{live.address}/v1/files", headers={"Authorization": f"Bearer {token}"}, trust_env=False)
    assert answer.status_code == httpx.codes.UNAUTHORIZED


def test_what_comes_from_another_site_is_refused(live: Live) -> None:
    with enter(live) as client:
        for path in ("/dashboard/sign-out", "/dashboard/sign-in", "/dashboard/files"):
            for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {}):
                assert client.post(path, headers=headers).status_code == httpx.codes.FORBIDDEN
        assert client.get("/dashboard/").status_code == httpx.codes.OK


@pytest.mark.parametrize("wanted", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)"])
def test_nobody_is_sent_elsewhere_after_signing_in(live: Live, wanted: str) -> None:
    form = {"key": live.key, "next": wanted}
    answer = httpx.post(
        f"{live.address}/dashboard/sign-in", data=form, headers={"Origin": live.address}, trust_env=False
    )
    assert answer.headers["location"] == "/dashboard/"


def test_without_a_session_there_is_no_page_and_no_socket(live: Live) -> None:
    with httpx.Client(base_url=live.address, trust_env=False) as client:
        page = client.get("/dashboard/jobs/ftjob-1?a=b")
        assert page.headers["location"] == "/dashboard/sign-in?next=%2Fjobs%2Fftjob-1%3Fa%3Db"
        socket = client.get("/dashboard/_nicegui_ws/socket.io/?EIO=4&transport=polling")
        assert socket.status_code == httpx.codes.UNAUTHORIZED


def test_pages_are_held_to_their_policy_and_the_rest_stays_strict(live: Live) -> None:
    with enter(live) as client:
        page = client.get("/dashboard/")
        policy = page.headers["content-security-policy"]
        nonce = re.search(r"'nonce-([\w-]+)'", policy)
        assert nonce is not None
        assert "frame-ancestors 'none'" in policy
        assert "'unsafe-inline'" not in policy.split("script-src")[1].split(";")[0]
        tags = re.findall(r"<script\b[^>]*>", page.text)
        assert tags
        assert all(f'nonce="{nonce[1]}"' in tag for tag in tags)
        assert client.get("/dashboard/").headers["content-security-policy"] != policy
        assert client.get("/healthz").headers["content-security-policy"].startswith("default-src 'none'; frame")
        assert page.headers["x-frame-options"] == "DENY"


def test_a_key_revoked_while_signed_in_ends_the_open_page(live: Live, browser: Browser) -> None:
    with live.http() as http:
        made = http.post("/v1/attune/keys", json={"name": "soon revoked"}).json()
        page = browser.new_page()
        sign_in(page, live.address, made["key"])
        expect(page.get_by_role("heading", name="Jobs", exact=True)).to_be_visible()
        http.delete(f"/v1/attune/keys/{made['id']}")
    page.wait_for_url("**/dashboard/sign-in**", timeout=10_000)
    expect(page.get_by_role("status")).to_contain_text("session has ended")
    page.context.close()
