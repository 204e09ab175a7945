"""/docs in a real browser without a network: read, authorised with a key, and a request sent by hand."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from core.settings import Settings
from tests.api.place import BASE, Place, place

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WAIT_MS = 60_000  # for Swagger UI to draw some eighty operations, on a busy machine


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Place]:
    with place(Settings(data_dir=tmp_path, log_level="warning")) as running:
        yield running


@pytest.fixture
def browser() -> Iterator[Browser]:
    assert CHROMIUM, "there is no chromium on the PATH; Debian's package is called chromium"
    with sync_playwright() as playwright:
        # no sandbox: the tests may run as root
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


def ask_for_models(page: Page) -> None:
    operation = page.locator("#operations-models-list_models")
    operation.locator(".opblock-summary-control").click()
    operation.get_by_role("button", name="Try it out").click()
    operation.get_by_role("button", name="Execute", exact=True).click()


def test_a_key_and_a_request_by_hand(browser: Browser, web: Place) -> None:
    page = browser.new_page(viewport={"width": 1200, "height": 1400})
    page.set_default_timeout(WAIT_MS)
    expect.set_options(timeout=WAIT_MS)
    requested: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(f"{web.url}/docs")
    expect(page.locator(".info .title")).to_contain_text("Attune")

    page.get_by_role("button", name="Authorize").first.click()
    page.locator(".auth-container input").fill(web.operator_key)
    page.locator(".auth-container button.authorize").click()
    page.locator(".auth-container button.btn-done").click()
    ask_for_models(page)
    answer = page.locator("#operations-models-list_models .live-responses-table")
    expect(answer.locator(".response-col_status").last).to_have_text("200")
    expect(answer.locator("td.response-col_description").last).to_contain_text(BASE)

    here = urlsplit(web.url).netloc
    assert {urlsplit(url).netloc for url in requested if not url.startswith("data:")} == {here}
    assert f"{web.url}/v1/models" in requested
    assert complaints == []
