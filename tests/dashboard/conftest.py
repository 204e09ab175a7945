"""One running service and one browser for all pages; a context of its own, and no errors, for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.dashboard.browser import DESKTOP, chromium, sign_in
from tests.engine.tiny_base import make_base
from tests.live import BASE, Live, live_service


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    base = make_base(tmp_path_factory.mktemp("base") / BASE)
    environment = {"ATTUNE_SNAPSHOT_INTERVAL_S": "1", "ATTUNE_BEAT_S": "1", "ATTUNE_LEASE_S": "10"}
    with live_service(tmp_path_factory.mktemp("data"), base, environment) as service:
        service.wait_for_worker()
        yield service


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """Fails the test whose page raised an error or was refused something by the content security policy."""
    context = browser.new_context(viewport=DESKTOP, reduced_motion="reduce")
    opened = context.new_page()
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda told: problems.append(told.text) if "Content Security Policy" in told.text else None)
    yield opened
    context.close()
    assert not problems


@pytest.fixture
def signed_in(page: Page, live: Live) -> Page:
    sign_in(page, live.address, live.key)
    return page
