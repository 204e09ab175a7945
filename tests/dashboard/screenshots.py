"""`make screenshots`: the README's pictures, taken of a running service that has trained the demo's base.

With `--every` all pages at both widths, light and dark, into a folder of one's choice, to be looked at after a change.
What it trains stays in a data folder of its own. Prints each picture's size and ends in one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, Page, expect
from rich.console import Console
from rich.table import Table

from tests.dashboard.browser import CHART_FILLS, DESKTOP, PHONE, chromium, overflow, sign_in
from tests.dashboard.demo import MESSAGE, REPAIRS, TICKET, Demo, prepare
from tests.live import BASE, ROOT, Live, demo_base, live_service, wait_until_ended

FOLDER = ROOT / "docs" / "pictures"
DATA = ROOT / "demo-data" / "pictures"
MOST_BYTES = 1_500_000  # of the README's together: every clone carries them
SETTLED_MS = 1_500  # a chart is drawn at most every 0.7 s
ANSWER_MS = 120_000


@dataclass(frozen=True)
class Look:
    """How the service is looked at."""

    name: str
    theme: str
    viewport: dict[str, int]

    def page(self, browser: Browser, live: Live) -> Page:
        context = browser.new_context(
            viewport=self.viewport,  # pyright: ignore[reportArgumentType]
            color_scheme=self.theme,  # pyright: ignore[reportArgumentType]
            reduced_motion="reduce",
        )
        page = context.new_page()
        page.set_default_timeout(ANSWER_MS)
        expect.set_options(timeout=ANSWER_MS)
        sign_in(page, live.address, live.key)
        return page


LIGHT, DARK = Look("light", "light", DESKTOP), Look("dark", "dark", DESKTOP)
PHONE_LIGHT, PHONE_DARK = Look("phone-light", "light", PHONE), Look("phone-dark", "dark", PHONE)
LOOKS = (LIGHT, DARK, PHONE_LIGHT, PHONE_DARK)


def _goto(page: Page, demo: Demo, path: str) -> None:
    page.goto(f"{demo.address}/dashboard{path}")


def _sign_in(page: Page, demo: Demo) -> None:
    page.context.clear_cookies()
    _goto(page, demo, "/")
    expect(page.get_by_label("API key")).to_be_visible()


def _jobs(page: Page, demo: Demo) -> None:
    _goto(page, demo, "/")
    expect(page.get_by_text("tickets-long").first).to_be_visible()


def _no_match(page: Page, demo: Demo) -> None:
    _jobs(page, demo)
    page.get_by_label("Search jobs").fill("invoices")
    expect(page.get_by_text("Nothing matches")).to_be_visible()


def _new(page: Page, demo: Demo) -> None:
    _goto(page, demo, "/new")
    page.get_by_role("button", name="Use the sample data").click()
    expect(page.get_by_text("Every line is well-formed.")).to_be_visible()
    page.get_by_text("All settings").click()
    expect(page.get_by_text("Trainable", exact=True)).to_be_visible()
    rank = page.get_by_label("Rank")
    for _ in range(4):
        rank.press("ArrowRight")
    expect(page.get_by_text("The last change")).to_be_visible()
    expect(page.get_by_role("heading", name="The doctor’s verdict")).to_be_visible()


def _job(page: Page, demo: Demo) -> None:
    _job_page(page, demo, demo.job)


def _job_running(page: Page, demo: Demo) -> None:
    _job_page(page, demo, demo.running)


def _job_page(page: Page, demo: Demo, job: str) -> None:
    _goto(page, demo, f"/jobs/{job}")
    expect(page.locator(".chart canvas")).to_be_visible()
    page.wait_for_function(CHART_FILLS)
    expect(page.get_by_text("Plan and outcome")).to_be_visible()


def _model(page: Page, demo: Demo) -> None:
    _goto(page, demo, f"/models/{demo.model}")
    expect(page.get_by_text("Where it comes from")).to_be_visible()


def _models(page: Page, demo: Demo) -> None:
    _goto(page, demo, "/models")
    expect(page.get_by_text("Base models")).to_be_visible()


def _compare(page: Page, demo: Demo) -> None:
    _goto(page, demo, f"/compare?models={demo.model}&models={BASE}")
    page.get_by_label("Message to all models").fill(demo.question)
    page.keyboard.press("Enter")
    expect(page.get_by_text(re.compile(r"^\d+ tokens"))).to_have_count(2)


def _data(page: Page, demo: Demo) -> None:
    _goto(page, demo, "/data")
    expect(page.locator(f'a[href$="{demo.clean}"]')).to_be_visible()


def _convert(page: Page, demo: Demo) -> None:
    _goto(page, demo, f"/data/{demo.table}/convert")
    page.get_by_label("A row is").select_option("chat")
    page.get_by_label("User", exact=True).select_option(MESSAGE)
    page.get_by_label("Assistant", exact=True).select_option(TICKET)
    expect(page.get_by_text("The first rows, as they will be trained on")).to_be_visible()


def _report(page: Page, demo: Demo) -> None:
    _goto(page, demo, f"/data/{demo.faulty}/report")
    expect(page.get_by_text("What was looked for")).to_be_visible()


def _repair(page: Page, demo: Demo) -> None:
    _goto(page, demo, f"/data/{demo.faulty}/repair?model={BASE}&repairs={REPAIRS}")
    expect(page.get_by_role("button", name="Make the repaired file")).to_be_visible()


def _trained(page: Page, demo: Demo) -> None:
    _goto(page, demo, f"/data/{demo.clean}/trained?line=2&model={BASE}")
    expect(page.locator(".tokens .supervised").first).to_be_visible()
    page.get_by_text("The very string the model sees", exact=True).click()


def _settings(page: Page, demo: Demo) -> None:
    _goto(page, demo, "/settings")
    expect(page.get_by_text("Use and limits")).to_be_visible()


def _workers(page: Page, demo: Demo) -> None:
    _goto(page, demo, "/workers")
    expect(page.get_by_text("Idle").first).to_be_visible()


SCENES: dict[str, Callable[[Page, Demo], None]] = {
    "sign-in": _sign_in,
    "jobs": _jobs,
    "no-match": _no_match,
    "job": _job,
    "new": _new,
    "compare": _compare,
    "model": _model,
    "models": _models,
    "data": _data,
    "convert": _convert,
    "report": _report,
    "repair": _repair,
    "trained": _trained,
    "settings": _settings,
    "workers": _workers,
}
RUNNING = ("job-running", _job_running)  # before the job is told to stop
README = (("compare", LIGHT), ("trained", LIGHT), ("job", PHONE_DARK))


class Camera:
    """`taken`: the pictures so far, in bytes by name."""

    def __init__(self, browser: Browser, live: Live, demo: Demo, folder: Path, *, whole: bool) -> None:
        self._browser = browser
        self._live = live
        self._demo = demo
        self._folder = folder
        self._whole = whole
        self.taken: dict[str, int] = {}

    def take(self, name: str, scene: Callable[[Page, Demo], None], look: Look) -> None:
        name = f"{name}-{look.name}"
        page = look.page(self._browser, self._live)
        scene(page, self._demo)
        page.evaluate("document.activeElement.blur()")
        page.wait_for_timeout(SETTLED_MS)
        assert overflow(page) <= 0, f"{name} is wider than its screen"
        if self._whole:  # a larger screen, and no longer page: what sticks to the screen's edges stays in its place
            height = page.evaluate("document.documentElement.scrollHeight")
            page.set_viewport_size({"width": look.viewport["width"], "height": height})
            page.wait_for_timeout(SETTLED_MS)
        path = self._folder / f"{name}.png"
        page.screenshot(path=path)
        self.taken[name] = path.stat().st_size
        page.context.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="data folder, kept for the next time")
    parser.add_argument("--every", type=Path, metavar="FOLDER", help="every page in every look, whole, into FOLDER")
    parser.add_argument("--only", nargs="+", metavar="PAGE", choices=SCENES, help="with --every: of these pages alone")
    arguments = parser.parse_args()
    folder: Path = arguments.every or FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with live_service(arguments.data, demo_base()) as live, chromium() as browser:
        live.wait_for_worker()
        demo = prepare(live)
        camera = Camera(browser, live, demo, folder, whole=arguments.every is not None)
        for look in LOOKS if arguments.every else (LIGHT,):
            camera.take(*RUNNING, look)
        live.client().fine_tuning.jobs.cancel(demo.running)
        wait_until_ended(live.client(), demo.running)
        for name, look in _every(arguments.only) if arguments.every else README:
            camera.take(name, SCENES[name], look)
    _print(camera.taken, folder)


def _every(only: list[str] | None) -> list[tuple[str, Look]]:
    return [(name, look) for name in only or SCENES for look in LOOKS]


def _print(taken: dict[str, int], folder: Path) -> None:
    table = Table(title=str(folder))
    for heading in ("picture", "kB"):
        table.add_column(heading)
    for name, size in taken.items():
        table.add_row(name, f"{size / 1000:.0f}")
    Console().print(table)
    figures: dict[str, object] = {"pictures": len(taken), "bytes": sum(taken.values())}
    if folder == FOLDER:
        figures["within_bounds"] = sum(taken.values()) <= MOST_BYTES
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
