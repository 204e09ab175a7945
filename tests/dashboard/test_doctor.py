"""The dataset doctor's pages: a broken spreadsheet becomes a model; what is trained, token by token; the phone."""

from __future__ import annotations

import json
import re
import time
from contextlib import suppress
from dataclasses import dataclass

import psutil
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.dashboard.browser import DESKTOP, PHONE, grave_findings, overflow, sign_in
from tests.live import BASE, Live

RUN_S = 150_000  # milliseconds in which a small job ends, also beside other work
TASK_S = 60_000  # and one of the doctor's tasks
GOOD_ROWS = 60
LONG_LINES = (50_000, 200_000)  # seconds of work, of which some are looked at; more where they were over too soon
BEGUN = "() => document.querySelector('[role=progressbar]')?.ariaValueNow !== '0'"  # or is over
SHARES = 3  # that are to be seen, the first nothing
LET_GO_S, HELD_MS = 0.2, 1800  # the service writes down how far it is once a second


@dataclass(frozen=True)
class Mended:
    """Ids of files, from the spreadsheet to what it was repaired to, and of the job that trains on it."""

    table: str
    converted: str
    repaired: str
    job: str


def broken_table() -> bytes:
    """As a spreadsheet of the German Windows writes it: semicolons, no UTF-8, columns of names that nobody knows."""
    rows = ["Anliegen;Erledigung;Nr"]
    rows += [f"Wo bleibt das Päckchen {n}?;Das Päckchen {n} kommt morgen.;{n}" for n in range(GOOD_ROWS)]
    rows += [rows[5], rows[6]]  # twice the same
    rows += ["Wohin schreibe ich?;An hilfe@laden-berlin.de, gern.;61"]  # an address
    rows += ["Und jetzt?;;62", ";;63"]  # no answer; nothing at all
    return "\n".join(rows).encode("cp1252")


def file_in(page: Page) -> str:
    found = re.search(r"/data/(file-\w+)", page.url)
    assert found is not None
    return found[1]


def click(page: Page, role: str, name: str) -> None:
    page.get_by_role(role, name=name, exact=True).click()  # pyright: ignore[reportArgumentType]


def expect_sound(page: Page) -> None:
    assert overflow(page) <= 0, page.url
    assert not grave_findings(page), page.url


@pytest.fixture(scope="module")
def mended(live: Live, browser: Browser) -> Mended:
    """What a person makes of the table without leaving the pages, each of which fits and is found sound on the way."""
    page = browser.new_page(viewport=DESKTOP, reduced_motion="reduce")
    page.set_default_timeout(TASK_S)
    sign_in(page, live.address, live.key, "/data")
    page.get_by_label("Drop a file, or choose one").set_input_files(
        {"name": "anfragen.csv", "mimeType": "text/csv", "buffer": broken_table()}
    )
    page.wait_for_url("**/convert")
    table = file_in(page)
    expect(page.get_by_text("CSV, of no form that is known.")).to_be_visible(timeout=TASK_S)
    page.get_by_label("A row is").select_option("chat")
    expect(page.get_by_text("Still to choose: User, Assistant.")).to_be_visible()
    expect(page.get_by_role("button", name="Make the training file")).to_be_hidden()
    page.get_by_label("User", exact=True).select_option("Anliegen")
    page.get_by_label("Assistant", exact=True).select_option("Erledigung")
    expect(page.get_by_role("list").get_by_text("assistant").first).to_be_visible(timeout=TASK_S)
    expect(page.get_by_text("Das Päckchen 0 kommt morgen.", exact=True)).to_be_visible()
    expect_sound(page)
    click(page, "button", "Make the training file")
    expect(page.get_by_text("65 rows gave 64 examples. 1 row was left out.")).to_be_visible(timeout=TASK_S)

    click(page, "link", "Check the new file")
    page.wait_for_url("**/report")
    converted = file_in(page)
    expect(page.get_by_text("Not checked yet")).to_be_visible()
    click(page, "button", "Check the file")
    expect(page.get_by_text("This cannot be trained on as it is: 1 error, 3 warnings")).to_be_visible(timeout=TASK_S)
    expect_sound(page)
    click(page, "link", "See the repairs")
    expect(page.get_by_text("1 would be changed and 3 would be removed; 61 lines stay.")).to_be_visible(timeout=TASK_S)
    expect(page.locator("del", has_text="hilfe@laden-berlin.de")).to_be_visible()
    expect(page.locator("ins", has_text="[EMAIL]")).to_be_visible()
    expect_sound(page)
    click(page, "button", "Make the repaired file")
    expect(page.get_by_text("The repaired file is made.")).to_be_visible(timeout=TASK_S)

    click(page, "link", "Split it")
    page.wait_for_url("**/split")
    repaired = file_in(page)
    page.get_by_label("Seed").fill("-1")
    click(page, "button", "Split the file")
    expect(page.get_by_text("A seed is a whole number from 0")).to_be_visible()
    page.get_by_label("Seed").fill("7")
    click(page, "button", "Split the file")
    expect(page.get_by_text("Split by seed 7")).to_be_visible(timeout=TASK_S)
    expect_sound(page)
    click(page, "link", "Train with these")
    expect(page.get_by_text(re.compile(r"^This is good to train on"))).to_be_visible(timeout=TASK_S)
    page.get_by_role("radio", name="Quick look").click()
    click(page, "button", "Start training")
    page.wait_for_url("**/jobs/*")
    job = page.url.rsplit("/", 1)[1]
    page.context.close()
    return Mended(table, converted, repaired, job)


def test_a_broken_spreadsheet_is_mapped_repaired_split_and_trained(live: Live, mended: Mended, signed_in: Page) -> None:
    """What the pages showed is what the service holds: the source as it was, and nothing of what was repaired away."""
    signed_in.goto(f"{live.address}/dashboard/jobs/{mended.job}")
    expect(signed_in.get_by_text("Trained, proven and ready to use: ft:")).to_be_visible(timeout=RUN_S)
    client = live.client()
    assert client.files.content(mended.table).read() == broken_table()
    assert client.files.retrieve(mended.converted).status == "error"
    repaired = client.files.content(mended.repaired).text
    lines = repaired.splitlines()
    assert len(set(lines)) == len(lines) == GOOD_ROWS + 1
    assert "@" not in repaired
    job = client.fine_tuning.jobs.retrieve(mended.job)
    assert job.status == "succeeded"
    assert job.validation_file is not None
    parts = [client.files.content(one).text.splitlines() for one in (job.training_file, job.validation_file)]
    assert sorted(parts[0] + parts[1]) == sorted(lines)


def test_the_report_is_there_again_and_its_findings_are_filtered(live: Live, mended: Mended, signed_in: Page) -> None:
    signed_in.goto(f"{live.address}/dashboard/data/{mended.converted}/report")
    found = signed_in.locator(".found-row")
    expect(found.filter(has_text="The assistant's answer is empty")).to_have_count(1, timeout=TASK_S)
    expect(found.filter(has_text="The same example again")).to_have_count(2)
    click(signed_in, "button", "Errors")
    expect(found).to_have_count(1)
    expect(signed_in.get_by_role("row", name=re.compile(r"^\d+ to \d+ \d+$")).first).to_be_visible()
    found.get_by_role("link", name="Line 64").click()
    signed_in.wait_for_url("**/trained?line=64**")
    expect(signed_in.get_by_role("alert").filter(has_text="The assistant's answer is empty")).to_be_visible(
        timeout=TASK_S
    )


def test_every_token_is_shown_as_supervised_or_context(live: Live, signed_in: Page) -> None:
    """In the words of the API, for the eye without colour and for the ear; and what is shown is text, never markup."""
    marked = "<img src=x onerror=alert(1)>\t& é"
    lines = [
        json.dumps({"messages": [{"role": "user", "content": f"{marked} {n}"}, {"role": "assistant", "content": "ok"}]})
        for n in range(3)
    ]
    file = live.client().files.create(file=("marked.jsonl", "\n".join(lines).encode()), purpose="fine-tune")
    signed_in.goto(f"{live.address}/dashboard/data/{file.id}/trained")
    expect(signed_in.get_by_role("button", name="Previous")).to_be_disabled(timeout=TASK_S)
    click(signed_in, "button", "Next")
    expect(signed_in.get_by_text("Line 2, as it is trained")).to_be_visible(timeout=TASK_S)
    model = signed_in.get_by_label("Base model").input_value()
    with live.http() as http:
        path = f"/v1/attune/files/{file.id}/examples"
        example = http.get(path, params={"model": model, "line": 2, "limit": 1}).json()["data"][0]
    (sequence,) = example["sequences"]
    shown = signed_in.get_by_role("region", name="The example as it is trained")
    expect(shown.locator(".token")).to_have_count(sequence["token_count"])
    for kind, is_supervised in (("supervised", True), ("context", False)):
        wanted = [token["text"] for token in sequence["tokens"] if token["supervised"] == is_supervised]
        pieces = shown.locator(f".piece.{kind}")
        got = "".join(pieces.locator(".token").all_text_contents())
        assert got.replace("↵", "").replace("⇥", "") == "".join(wanted)
        assert all(said.startswith(f" {kind.capitalize()}: ") for said in pieces.all_text_contents())
    assert "underline" in shown.locator(".piece.supervised").first.evaluate("e => getComputedStyle(e).textDecoration")
    assert shown.locator("img").count() == 0
    signed_in.get_by_text("The very string the model sees", exact=True).click()
    assert signed_in.get_by_label("The string the model sees", exact=True).text_content() == sequence["text"]
    click(signed_in, "button", "Next")
    expect(signed_in.get_by_role("button", name="Next")).to_be_disabled(timeout=TASK_S)
    signed_in.wait_for_url("**/trained?line=3**")
    expect_sound(signed_in)


def test_the_bar_of_a_long_check_moves_and_makes_room_for_its_result(live: Live, signed_in: Page) -> None:
    assert any(len(shares_shown(live, signed_in, lines)) >= SHARES for lines in LONG_LINES)


def shares_shown(live: Live, page: Page, lines: int) -> list[int]:
    """The bar's own, in per cent: the check's process goes on for a little at a time and is held in between."""
    examples = [
        json.dumps({"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n * n}."}]})
        for n in range(lines)
    ]
    file = live.client().files.create(file=("long.jsonl", "\n".join(examples).encode()), purpose="fine-tune")
    page.goto(f"{live.address}/dashboard/data/{file.id}/report")
    page.get_by_label("Base model").select_option(BASE)
    click(page, "button", "Check the file")
    bar = page.get_by_role("progressbar")
    expect(bar).to_be_visible()
    child = doctors_process(live)
    page.wait_for_function(BEGUN)
    seen = [0]
    try:
        while len(seen) < SHARES:
            child.suspend()
            page.wait_for_timeout(HELD_MS)
            if not bar.is_visible():
                break
            share = int(bar.get_attribute("aria-valuenow") or 0)
            assert share >= seen[-1]
            if share > seen[-1]:
                seen.append(share)
                assert bar.locator("div").get_attribute("style") == f"width: {share}%;"
                expect(page.get_by_text(f" … {share} %")).to_be_visible()
            child.resume()
            time.sleep(LET_GO_S)
    except psutil.NoSuchProcess:
        pass  # it was faster
    finally:
        with suppress(psutil.NoSuchProcess):
            child.resume()
    assert seen[-1] < 100
    expect(page.get_by_text("What was looked for")).to_be_visible(timeout=TASK_S)
    expect(bar).to_be_hidden()
    return seen


def doctors_process(live: Live) -> psutil.Process:
    deadline = time.monotonic() + TASK_S / 1000
    while time.monotonic() < deadline:
        if found := live.processes("core.doctor"):
            return found[0]
    raise TimeoutError("the doctor's process did not start")


def test_a_form_that_is_known_is_taken_where_a_job_is_made(live: Live, signed_in: Page) -> None:
    rows = [{"instruction": f"Add one to {n}", "input": "", "output": str(n + 1)} for n in range(20)]
    signed_in.goto(f"{live.address}/dashboard/new")
    signed_in.get_by_label("Drop a file, or choose one").set_input_files(
        {"name": "alpaca.json", "mimeType": "application/json", "buffer": json.dumps(rows).encode()}
    )
    expect(signed_in.get_by_text("Recognised: JSON, “Instruction and output (Alpaca)”")).to_be_visible(timeout=TASK_S)
    signed_in.get_by_label("Instruction before every example").fill("Answer with a number.")
    signed_in.keyboard.press("Tab")
    expect(signed_in.get_by_text("Answer with a number.").nth(1)).to_be_visible(timeout=TASK_S)
    expect_sound(signed_in)
    click(signed_in, "button", "Make the training file")
    expect(signed_in.get_by_text("alpaca-converted.jsonl: 20 examples. Every line is well-formed.")).to_be_visible(
        timeout=TASK_S
    )
    expect(signed_in.get_by_role("heading", name="The doctor’s verdict")).to_be_visible(timeout=TASK_S)
    expect(signed_in.get_by_role("link", name="The whole report")).to_be_visible()


def test_a_key_that_may_not_write_sees_the_report_and_no_button_that_fails(
    live: Live, mended: Mended, page: Page
) -> None:
    with live.http() as http:
        made = http.post("/v1/attune/keys", json={"name": "looks only", "scopes": ["read"]}).json()
    sign_in(page, live.address, made["key"], f"/data/{mended.converted}/report")
    expect(page.get_by_text("This cannot be trained on as it is")).to_be_visible(timeout=TASK_S)
    for name in ("Check the file", "See the repairs", "Repair", "Split"):
        assert page.get_by_text(name, exact=True).count() == 0
    page.goto(f"{live.address}/dashboard/data/{mended.converted}/repair")
    expect(page.get_by_text("This key cannot repair")).to_be_visible()


def test_the_doctors_pages_fit_the_phone_in_the_dark(live: Live, mended: Mended, browser: Browser) -> None:
    context = browser.new_context(
        viewport=PHONE,  # pyright: ignore[reportArgumentType]
        color_scheme="dark",
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.set_default_timeout(TASK_S)
    sign_in(page, live.address, live.key)
    repairs = "drop_faulty,drop_duplicates,mask_personal_data"
    for path, ready in (
        (f"{mended.table}/convert", "Say what a row is, and which column holds what."),
        (f"{mended.converted}/report", "What was looked for"),
        (f"{mended.converted}/repair?repairs={repairs}", "Make the repaired file"),
        (f"{mended.repaired}/split", "Train with these"),
        (f"{mended.repaired}/trained?line=3", "Line 3, as it is trained"),
    ):
        page.goto(f"{live.address}/dashboard/data/{path}")
        expect(page.get_by_text(ready).first).to_be_visible(timeout=TASK_S)
        expect_sound(page)
    context.close()
