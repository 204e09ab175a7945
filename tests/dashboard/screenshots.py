"""`make screenshots`: the README's pictures, taken of a running service that has trained the demo's base.

What it trains stays in a data folder of its own, so that pictures after a change of the pages take seconds. Prints each
picture's size and ends in one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import dataclass
from pathlib import Path

from openai import OpenAI
from playwright.sync_api import Browser, Page, expect
from rich.console import Console
from rich.table import Table

from tests.dashboard.browser import CHART_FILLS, DESKTOP, PHONE, chromium, overflow, sign_in
from tests.live import BASE, ROOT, Live, demo_base, live_service, wait_for_step, wait_until_ended

FOLDER = ROOT / "docs" / "pictures"
DATA = ROOT / "demo-data" / "pictures"
MOST_BYTES = 1_500_000  # of all together: every clone carries them
TRAINING, VALIDATION, WATCHED = 600, 60, 2  # examples, and of those in the validation file the prompts to watch
SETTLED_MS = 1_500  # a chart is drawn at most every 0.7 s
ANSWER_MS = 120_000


@dataclass(frozen=True)
class Demo:
    """What the pictures show: two jobs that have succeeded, one that runs, and a question that neither has seen."""

    good: str
    small: str
    running: str
    model: str
    question: str


@dataclass(frozen=True)
class Look:
    """How the service is looked at."""

    theme: str
    viewport: dict[str, int]

    def page(self, browser: Browser, live: Live) -> Page:
        context = browser.new_context(
            viewport=self.viewport,  # pyright: ignore[reportArgumentType]
            color_scheme=self.theme,  # pyright: ignore[reportArgumentType]
            reduced_motion="reduce",
        )
        page = context.new_page()
        sign_in(page, live.address, live.key)
        return page


LIGHT, DARK = Look("light", DESKTOP), Look("dark", DESKTOP)
PHONE_LIGHT, PHONE_DARK = Look("light", PHONE), Look("dark", PHONE)


def prepare(live: Live) -> Demo:
    client = live.client()
    with live.http() as http:
        parts = {
            part: http.get(f"/v1/attune/sample_data/{part}", params={"examples": examples}).text
            for part, examples in (("training", TRAINING), ("validation", VALIDATION))
        }
    questions = [json.loads(line)["messages"][0]["content"] for line in parts["validation"].splitlines()]
    watched = questions[:WATCHED]
    good = _job(client, parts, "tickets", 3, sample_prompts=watched)
    small = _job(client, parts, "tickets-small", 1, lora={"rank": 4})
    model = wait_until_ended(client, good, 1800).fine_tuned_model
    assert model is not None, "the demo's job failed"
    wait_until_ended(client, small, 1800)
    running = _create(client, parts, "tickets-long", 12, sample_prompts=watched)
    wait_for_step(client, running, 120, 1800)
    return Demo(good, small, running, model, questions[WATCHED])


def _job(client: OpenAI, parts: dict[str, str], name: str, epochs: int, **ours: object) -> str:
    """The job of this name that has succeeded in the data folder, or a new one."""
    for job in client.fine_tuning.jobs.list(limit=100):
        if job.status == "succeeded" and job.to_dict()["user_provided_suffix"] == name:
            return job.id
    return _create(client, parts, name, epochs, **ours)


def _create(client: OpenAI, parts: dict[str, str], name: str, epochs: int, **ours: object) -> str:
    files = [
        client.files.create(file=(f"tickets-{part}.jsonl", lines.encode()), purpose="fine-tune").id
        for part, lines in parts.items()
    ]
    job = client.fine_tuning.jobs.create(
        model=BASE,
        training_file=files[0],
        validation_file=files[1],
        suffix=name,
        seed=1,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": epochs}}},
        extra_body={"attune": ours},
    )
    return job.id


class Camera:
    """`taken`: the pictures so far, in bytes by name."""

    def __init__(self, browser: Browser, live: Live, folder: Path) -> None:
        self._browser = browser
        self._live = live
        self._folder = folder
        self.taken: dict[str, int] = {}

    def jobs(self, look: Look, name: str) -> None:
        page = self._open(look, "/")
        expect(page.get_by_text("tickets-long").first).to_be_visible()
        self._take(page, look, name)

    def new(self, look: Look, name: str) -> None:
        page = self._open(look, "/new")
        page.get_by_role("button", name="Use the sample data").click()
        expect(page.get_by_text("Every line is well-formed.")).to_be_visible(timeout=ANSWER_MS)
        page.get_by_text("All settings").click()
        rank = page.get_by_label("Rank")
        for _ in range(3):
            rank.press("ArrowRight")
        expect(page.get_by_text("The last change")).to_be_visible(timeout=ANSWER_MS)
        self._take(page, look, name, whole=True)

    def job(self, job_id: str, look: Look, name: str, *, whole: bool = False) -> None:
        page = self._open(look, f"/jobs/{job_id}")
        expect(page.locator(".chart canvas")).to_be_visible()
        page.wait_for_function(CHART_FILLS, timeout=ANSWER_MS)
        expect(page.get_by_text("Plan and outcome")).to_be_visible(timeout=ANSWER_MS)
        self._take(page, look, name, whole=whole)

    def compare(self, demo: Demo, look: Look, name: str) -> None:
        page = self._open(look, f"/compare?models={demo.model}&models={BASE}")
        page.get_by_label("Message to all models").fill(demo.question)
        page.keyboard.press("Enter")
        expect(page.get_by_text(re.compile(r"^\d+ tokens"))).to_have_count(2, timeout=ANSWER_MS)
        self._take(page, look, name)

    def model(self, demo: Demo, look: Look, name: str) -> None:
        page = self._open(look, f"/models/{demo.model}")
        expect(page.get_by_text("Where it comes from")).to_be_visible()
        self._take(page, look, name)

    def _open(self, look: Look, path: str) -> Page:
        page = look.page(self._browser, self._live)
        page.goto(f"{self._live.address}/dashboard{path}")
        return page

    def _take(self, page: Page, look: Look, name: str, *, whole: bool = False) -> None:
        page.evaluate("document.activeElement.blur()")
        page.wait_for_timeout(SETTLED_MS)
        assert overflow(page) <= 0, f"{name} is wider than its screen"
        if whole:  # a larger screen, and no longer page: what sticks to the screen's edges stays in its place
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
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the pictures go")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with live_service(arguments.data, demo_base()) as live, chromium() as browser:
        live.wait_for_worker()
        demo = prepare(live)
        camera = Camera(browser, live, arguments.folder)
        camera.jobs(LIGHT, "jobs-light")
        camera.job(demo.running, LIGHT, "job-running-light")
        live.client().fine_tuning.jobs.cancel(demo.running)
        wait_until_ended(live.client(), demo.running)
        for look in (LIGHT, DARK):
            camera.job(demo.good, look, f"job-{look.theme}")
        camera.new(LIGHT, "new-light")
        camera.compare(demo, LIGHT, "compare-light")
        camera.compare(demo, DARK, "compare-dark")
        camera.model(demo, DARK, "model-dark")
        camera.job(demo.good, PHONE_LIGHT, "phone-job-light")
        camera.jobs(PHONE_DARK, "phone-jobs-dark")
    table = Table(title=str(arguments.folder))
    for heading in ("picture", "kB"):
        table.add_column(heading)
    for name, size in camera.taken.items():
        table.add_row(name, f"{size / 1000:.0f}")
    Console().print(table)
    total = sum(camera.taken.values())
    print(json.dumps({"pictures": len(camera.taken), "bytes": total, "within_bounds": total <= MOST_BYTES}))


if __name__ == "__main__":
    main()
