"""The pages in a real Chromium: from the first visit to a model, a job live, the phone, dark, the keyboard alone."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.dashboard.browser import CHART_FILLS, DESKTOP, PHONE, grave_findings, overflow, sign_in
from tests.dashboard.conftest import FEW, create
from tests.live import Live, wait_for_step, wait_until_ended

STARTED = re.compile(r"/jobs/(ftjob-\w+)$")
RUN_S = 150_000  # milliseconds in which a small job ends, also beside other work


@pytest.fixture(scope="module")
def finished(live: Live, browser: Browser) -> str:
    """The id of a job that a first visitor has started with the sample data, in a few clicks, and that is over."""
    page = browser.new_page(viewport=DESKTOP)
    clicks = 0
    sign_in(page, live.address, live.key)
    clicks += 1

    def click(role: str, name: str) -> None:
        nonlocal clicks
        page.get_by_role(role, name=name).first.click()  # pyright: ignore[reportArgumentType]
        clicks += 1

    click("link", "Train a model")
    click("button", "Use the sample data")
    expect(page.get_by_text("600 examples, and 60 to validate with. Every line is well-formed.")).to_be_visible()
    click("radio", "Quick look")
    click("button", "Start training")
    page.wait_for_url(STARTED)
    assert clicks <= 6
    found = STARTED.search(page.url)
    assert found is not None
    expect(page.get_by_text("Running", exact=True)).to_be_visible(timeout=RUN_S)
    expect(page.get_by_text(re.compile(r"^Step [1-9]\d* of \d+$"))).to_be_visible(timeout=RUN_S)
    expect(page.get_by_text("Trained, proven and ready to use: ft:")).to_be_visible(timeout=RUN_S)
    expect(page.get_by_text("The job has successfully completed")).to_be_visible()
    page.context.close()
    job = live.client().fine_tuning.jobs.retrieve(found[1])
    assert job.user_provided_suffix == "tickets"  # type: ignore[attr-defined]
    assert job.validation_file is not None
    return found[1]


def test_from_the_first_visit_to_a_finished_job(live: Live, finished: str, signed_in: Page) -> None:
    """Coming back shows everything: curves with their values, checkpoints, the request as code that does the same."""
    signed_in.goto(f"{live.address}/dashboard/jobs/{finished}")
    expect(signed_in.get_by_text("Trained, proven and ready to use: ft:")).to_be_visible()
    expect(signed_in.get_by_text("The job has successfully completed")).to_be_visible()
    expect(signed_in.get_by_text("best", exact=True)).to_be_visible()
    expect(signed_in.get_by_text(re.compile(r"^\d[\d.]* MiB planned, \d[\d.]* [MG]iB at the peak$"))).to_be_visible()
    expect(signed_in.get_by_text(re.compile(r"(^|planned, )(\d+ min )?\d+ s taken$"))).to_be_visible()
    expect(signed_in.get_by_text("Interrupted", exact=True)).to_be_hidden()
    chart = signed_in.locator(".chart")
    signed_in.wait_for_function(CHART_FILLS)
    chart.locator("canvas").hover()
    expect(chart.get_by_text(re.compile(r"^Step \d+$"))).to_be_visible()
    expect(chart.get_by_text("Training", exact=True)).to_be_visible()
    for name in ("Learning rate", "Gradient norm", "Tokens per second", "Loss"):
        signed_in.get_by_role("button", name=name).click()
        expect(signed_in.get_by_role("button", name=name)).to_have_attribute("aria-pressed", "true")
    code = signed_in.get_by_label("Python", exact=True).inner_text()
    compile(code, "request.py", "exec")
    assert finished not in code
    asked = live.client().fine_tuning.jobs.retrieve(finished)
    assert f"training_file='{asked.training_file}'" in code
    assert "'n_epochs': 1" in code


def test_run_again_with_changes_asks_for_the_same_but_the_change(live: Live, finished: str, signed_in: Page) -> None:
    signed_in.goto(f"{live.address}/dashboard/jobs/{finished}")
    signed_in.get_by_role("link", name="Run again with changes").click()
    expect(signed_in.get_by_label("Rank")).to_have_attribute("aria-valuetext", "8")
    expect(signed_in.get_by_label("Epochs")).to_have_value("1")
    signed_in.get_by_label("Epochs").fill("many")
    signed_in.keyboard.press("Tab")
    signed_in.get_by_label("Scale").press("ArrowRight")
    expect(signed_in.get_by_text("alpha = scale × rank = 4")).to_be_visible()
    expect(signed_in.get_by_text("A whole number from 1 to 50.")).to_be_visible()
    signed_in.get_by_label("Epochs").fill("2")
    signed_in.get_by_role("button", name="Start training").click()
    signed_in.wait_for_url(STARTED)
    again = STARTED.search(signed_in.url)
    assert again is not None
    client = live.client()
    jobs = [client.fine_tuning.jobs.retrieve(job_id).to_dict() for job_id in (finished, again[1])]
    client.fine_tuning.jobs.cancel(again[1])
    assert [job["attune"]["requested"]["lora"]["scale"] for job in jobs] == ["auto", 0.5]  # type: ignore[index]
    assert [job["attune"]["requested"]["n_epochs"] for job in jobs] == [1, 2]  # type: ignore[index]
    for same in ("model", "training_file", "validation_file", "seed"):
        assert jobs[0][same] == jobs[1][same]


def test_an_uploaded_file_is_judged_where_it_was_dropped(live: Live, signed_in: Page) -> None:
    signed_in.goto(f"{live.address}/dashboard/new")
    drop = signed_in.get_by_label("Drop a file, or choose one")
    broken = FEW + '\n{"messages": [{"role": "nobody", "content": "x"}]}'
    drop.set_input_files({"name": "b.jsonl", "mimeType": "application/jsonl", "buffer": broken.encode()})
    expect(signed_in.get_by_text("b.jsonl cannot be trained on yet")).to_be_visible()
    expect(signed_in.get_by_text("Line 65")).to_be_visible()
    drop.set_input_files({"name": "not.jsonl", "mimeType": "application/jsonl", "buffer": b"\xff\xfe"})
    expect(signed_in.get_by_role("alert").filter(has_text="UTF-8")).to_be_visible()
    signed_in.get_by_role("button", name="Start training").click()
    expect(signed_in.get_by_text("Choose data first.").first).to_be_visible()
    drop.set_input_files({"name": "good.jsonl", "mimeType": "application/jsonl", "buffer": FEW.encode()})
    expect(signed_in.get_by_text("good.jsonl: 64 examples. Every line is well-formed.")).to_be_visible()


def test_a_job_paused_and_resumed_from_the_page_ends_well(live: Live, signed_in: Page) -> None:
    """It goes on from where it was, also when the training program is killed after that, and the page says so."""
    client = live.client()
    job_id = create(client, "paused", epochs=15)
    signed_in.goto(f"{live.address}/dashboard/jobs/{job_id}")
    pause = signed_in.get_by_role("button", name="Pause")
    expect(pause).to_be_visible(timeout=RUN_S)
    wait_for_step(client, job_id, 2, RUN_S / 1000)
    pause.click()
    expect(signed_in.get_by_text("Paused", exact=True)).to_be_visible(timeout=30_000)
    reached = client.fine_tuning.jobs.retrieve(job_id).to_dict()["attune"]["progress"]["snapshot_step"]  # type: ignore[index]
    assert 2 <= reached < 120
    expect(signed_in.get_by_text("Interrupted", exact=True)).to_be_hidden()  # which a pause is not
    signed_in.get_by_role("button", name="Resume").click()
    expect(signed_in.get_by_text("Running", exact=True)).to_be_visible(timeout=60_000)
    wait_for_step(client, job_id, reached + 1, RUN_S / 1000)
    live.processes("worker.engine")[0].kill()
    expect(signed_in.get_by_text("Trained, proven and ready to use: ft:")).to_be_visible(timeout=RUN_S)
    expect(signed_in.get_by_text("Step 120 of 120", exact=True)).to_be_visible()
    expect(signed_in.get_by_text("120 planned, 120 done", exact=True)).to_be_visible()
    expect(signed_in.locator("div").filter(has_text=re.compile("^Interruptedonce$"))).to_be_visible()
    assert client.fine_tuning.jobs.retrieve(job_id).status == "succeeded"


def test_a_running_job_is_cancelled_from_the_page(live: Live, signed_in: Page) -> None:
    client = live.client()
    job_id = create(client, "cancelled", epochs=50)
    signed_in.goto(f"{live.address}/dashboard/jobs/{job_id}")
    expect(signed_in.get_by_text("Running", exact=True)).to_be_visible(timeout=60_000)
    signed_in.get_by_role("button", name="Cancel").click()
    signed_in.get_by_role("button", name="Keep it running").click()
    expect(signed_in.get_by_role("dialog")).to_be_hidden()
    signed_in.get_by_role("button", name="Cancel").click()
    signed_in.get_by_role("button", name="Cancel the job").click()
    expect(signed_in.get_by_text("Cancelled", exact=True)).to_be_visible(timeout=30_000)
    assert client.fine_tuning.jobs.retrieve(job_id).status == "cancelled"


def test_a_web_process_restarted_under_an_open_page(live: Live, signed_in: Page) -> None:
    client = live.client()
    job_id = create(client, "restarted", epochs=50)
    wait_for_step(client, job_id, 2, RUN_S / 1000)
    signed_in.goto(f"{live.address}/dashboard/jobs/{job_id}")
    expect(signed_in.get_by_text("Running", exact=True)).to_be_visible()
    live.processes("api.app")[0].kill()
    signed_in.wait_for_event("load", timeout=60_000)  # the page finds its way back by itself, signed in
    expect(signed_in.get_by_text("Running", exact=True)).to_be_visible(timeout=60_000)
    reached = client.with_options(max_retries=8).fine_tuning.jobs.retrieve(job_id).to_dict()
    step = reached["attune"]["progress"]["step"]  # type: ignore[index]
    wait_for_step(client, job_id, step + 2, RUN_S / 1000)
    expect(signed_in.get_by_text(re.compile(r"^Step \d+ of \d+$"))).not_to_have_text(f"Step {step} of 400")
    client.fine_tuning.jobs.cancel(job_id)
    wait_until_ended(client, job_id, 60)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", ["desktop", "phone"])
def test_every_page_fits_and_axe_finds_nothing_serious(
    live: Live, finished: str, browser: Browser, theme: str, size: str
) -> None:
    context = browser.new_context(
        viewport=PHONE if size == "phone" else DESKTOP,  # pyright: ignore[reportArgumentType]
        color_scheme=theme,  # pyright: ignore[reportArgumentType]
        reduced_motion="reduce",
    )
    page = context.new_page()
    sign_in(page, live.address, live.key)
    for path, ready in (("/", "tickets"), ("/new", "All settings"), (f"/jobs/{finished}", "Plan and outcome")):
        page.goto(f"{live.address}/dashboard{path}")
        expect(page.get_by_text(ready).first).to_be_visible()
        if path == "/new":
            page.get_by_text("All settings").click()
        assert overflow(page) <= 0, path
        assert not grave_findings(page), path
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground)[:3])) < 200) == (theme == "dark")
    if size == "phone":
        assert not page.get_by_role("link", name="Jobs", exact=True).is_visible()
        page.get_by_role("button", name="Menu").click()
        page.get_by_role("link", name="Jobs", exact=True).click()
        page.wait_for_url(f"{live.address}/dashboard/")
    context.close()


def test_a_chosen_theme_stays(live: Live, signed_in: Page) -> None:
    with signed_in.expect_navigation():
        signed_in.get_by_label("Theme").select_option("dark")
    signed_in.goto(f"{live.address}/dashboard/new")
    assert signed_in.evaluate("getComputedStyle(document.documentElement).colorScheme") == "dark"


def test_the_list_is_searched_and_filtered(finished: str, signed_in: Page) -> None:
    row = signed_in.locator(f'a[href$="{finished}"]')
    expect(row).to_be_visible()
    signed_in.get_by_label("Search jobs").fill("no such job")
    expect(signed_in.get_by_text("Nothing matches")).to_be_visible()
    signed_in.get_by_label("Search jobs").fill("TICKETS")
    expect(row).to_be_visible()
    signed_in.get_by_role("button", name="Failed or cancelled").click()
    expect(row).to_be_hidden()
    signed_in.get_by_role("button", name="Succeeded").click()
    expect(row).to_be_visible()


def test_the_keyboard_alone_leads_to_a_finished_job(live: Live, signed_in: Page) -> None:
    """And on to what it has learnt, beside its base."""

    def tab_to(name: str) -> None:
        for _ in range(60):
            signed_in.keyboard.press("Tab")
            focused = signed_in.evaluate(
                "(() => { const at = document.activeElement; "
                "return (at.ariaLabel || at.labels?.[0]?.textContent || at.textContent || '').trim() })()"
            )
            if focused.endswith(name):
                return
        pytest.fail(f"Tab never reaches {name!r}")

    tab_to("Skip to the content")
    tab_to("Train a model")
    signed_in.keyboard.press("Enter")
    signed_in.wait_for_url("**/new")
    expect(signed_in.get_by_role("button", name="Start training")).to_be_visible()
    tab_to("Use the sample data")
    signed_in.keyboard.press("Enter")
    expect(signed_in.get_by_text("Every line is well-formed.")).to_be_visible()
    tab_to("Right for most.")  # the preset that is chosen, from which the arrows lead on
    signed_in.keyboard.press("ArrowLeft")
    expect(signed_in.get_by_role("radio", name="Quick look")).to_be_checked()
    tab_to("All settings")
    signed_in.keyboard.press("Enter")
    tab_to("Batch size")
    signed_in.keyboard.type("16")
    tab_to("Start training")
    signed_in.keyboard.press("Enter")
    signed_in.wait_for_url(STARTED)
    started = STARTED.search(signed_in.url)
    assert started is not None
    expect(signed_in.get_by_text("Trained, proven and ready to use: ft:")).to_be_visible(timeout=RUN_S)
    assert live.client().fine_tuning.jobs.retrieve(started[1]).status == "succeeded"
    tab_to("Compare with its base")
    signed_in.keyboard.press("Enter")
    signed_in.wait_for_url("**/compare?*")
