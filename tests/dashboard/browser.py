"""A real Chromium for tests and pictures: the system's, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
MISSING = "There is no Chromium on the PATH, which these need. On Debian: apt-get install chromium"
FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 900}
GRAVE = ("serious", "critical")
CHART_FILLS = "document.querySelector('.chart canvas').clientWidth > 0.9 * document.querySelector('.chart').clientWidth"


@contextmanager
def chromium() -> Iterator[Browser]:
    """Raises RuntimeError where there is none: a suite that skips its pages would prove nothing."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        raise RuntimeError(MISSING)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


def sign_in(page: Page, address: str, key: str, path: str = "/") -> None:
    """With the form, as a person does; ends on the page `path` of the dashboard."""
    page.goto(f"{address}/dashboard{path}")
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{address}/dashboard{path}")


def overflow(page: Page) -> int:
    """Pixels by which the page is wider than the screen."""
    return page.evaluate("document.documentElement.scrollWidth - innerWidth")


def grave_findings(page: Page) -> list[str]:
    """What axe-core finds serious or critical, each with the place."""
    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {node['target']} {node['failureSummary']}"
        for one in found
        if one["impact"] in GRAVE
        for node in one["nodes"]
    ]
