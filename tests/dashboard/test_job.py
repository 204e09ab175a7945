"""A job's page and the form that leads to it: samples over time, ways to compare and to embed, nothing typed lost."""

from __future__ import annotations

import json
import re

from playwright.sync_api import Browser, Page, expect

from tests.dashboard.browser import grave_findings
from tests.dashboard.conftest import PROMPTS, Trained
from tests.live import BASE, Live

LONG = "\n".join(
    json.dumps({"messages": [{"role": "user", "content": "please " * 60}, {"role": "assistant", "content": f"{n}"}]})
    for n in range(16)
)


def test_what_the_model_answers_is_seen_over_time(live: Live, trained: Trained, signed_in: Page) -> None:
    """Every prompt has a strip with an answer for each checkpoint: the words that the events hold, in their order."""
    job_id = trained.jobs[1]
    signed_in.goto(f"{live.address}/dashboard/jobs/{job_id}")
    expect(signed_in.get_by_role("heading", name="Watch it learn")).to_be_visible()
    events = live.client().fine_tuning.jobs.list_events(job_id, limit=100).data
    found = [event.data for event in events if event.data and "answer" in event.data]  # type: ignore[operator]
    for prompt in PROMPTS:
        samples = {one["step"]: one["answer"] for one in found if one["prompt"] == prompt}  # type: ignore[index]
        assert len(samples) == 2
        strip = signed_in.get_by_label(f"Answers to: {prompt}").get_by_role("listitem")
        expect(strip).to_have_count(2)
        for place, step in enumerate(sorted(samples)):
            expect(strip.nth(place)).to_contain_text(f"step {step}")
            assert strip.nth(place).locator("p").text_content() == (samples[step] or "(nothing)")


def test_a_job_leads_to_its_model_beside_its_base_and_to_its_checkpoints(
    live: Live, trained: Trained, signed_in: Page
) -> None:
    signed_in.goto(f"{live.address}/dashboard/jobs/{trained.jobs[0]}")
    signed_in.get_by_role("link", name="Compare with its base").click()
    columns = signed_in.get_by_label("Model", exact=True)
    expect(columns.nth(0)).to_have_value(trained.models[0])
    expect(columns.nth(1)).to_have_value(BASE)
    signed_in.go_back()
    checkpoints = live.client().fine_tuning.jobs.checkpoints.list(trained.jobs[0]).data
    newest = checkpoints[0]
    signed_in.get_by_role("link", name=f"Try step {newest.step_number}", exact=True).click()
    expect(columns.nth(0)).to_have_value(newest.fine_tuned_model_checkpoint)


def test_a_job_is_embedded_by_a_link_of_its_page(
    live: Live, trained: Trained, signed_in: Page, browser: Browser
) -> None:
    signed_in.goto(f"{live.address}/dashboard/jobs/{trained.jobs[0]}")
    signed_in.get_by_role("button", name="Embed").click()
    signed_in.get_by_label("The link is good for").select_option("86400")
    signed_in.get_by_role("button", name="Make the link").click()
    link = signed_in.get_by_label("Link", exact=True).last.inner_text()
    assert f'src="{link}"' in signed_in.get_by_label("HTML for a page", exact=True).inner_text()
    assert not grave_findings(signed_in)
    stranger = browser.new_page()
    stranger.goto(link)
    expect(stranger.get_by_role("status")).to_have_text("Succeeded")
    stranger.context.close()
    signed_in.get_by_role("button", name="Close").click()
    expect(signed_in.get_by_role("dialog")).to_be_hidden()


def test_what_was_typed_outlives_every_change_of_the_page(live: Live, signed_in: Page) -> None:
    """A name, prompts and settings of one's own stay when data, sliders and the plan draw the page anew."""
    signed_in.goto(f"{live.address}/dashboard/new")
    name, prompts = signed_in.get_by_label("Name"), signed_in.get_by_label("Prompts to watch")
    name.fill("my own")
    prompts.fill("one?\n\n two?")
    signed_in.get_by_text("All settings").click()
    epochs = signed_in.get_by_label("Epochs")
    epochs.press_sequentially("7")
    signed_in.get_by_role("button", name="Use the sample data").click()
    expect(signed_in.get_by_text("Every line is well-formed.")).to_be_visible()
    expect(signed_in.get_by_text("Trainable", exact=True)).to_be_visible(timeout=30_000)
    expect(signed_in.get_by_text(re.compile(r"weights [\d.]+ [KM]iB"))).to_be_visible()  # memory in its parts
    signed_in.get_by_text("Every value, and why").click()
    rank = signed_in.get_by_label("Rank")
    for _ in range(2):
        rank.press("ArrowRight")
    expect(rank).to_have_attribute("aria-valuetext", "8")
    expect(signed_in.get_by_text(re.compile(r"The last change: .*trainable .* → "))).to_be_visible()
    assert (name.input_value(), prompts.input_value(), epochs.input_value()) == ("my own", "one?\n\n two?", "7")
    assert rank.input_value() == "2"
    expect(signed_in.get_by_text("lora rank: 8", exact=True)).to_be_visible()
    expect(signed_in.get_by_text("rank 8, scale 2x", exact=True)).to_be_visible()


def test_the_slider_of_lengths_ends_at_what_the_base_reads_and_at_the_longest_example(
    live: Live, signed_in: Page
) -> None:
    """No stop of it is one that the plan refuses: not above the base's context, not below the data."""
    with live.http() as http:
        bases = http.get("/v1/attune/base_models").json()["data"]
        context = next(base["context_tokens"] for base in bases if base["id"] == BASE)
    file = live.client().files.create(file=("long.jsonl", LONG.encode()), purpose="fine-tune")
    signed_in.goto(f"{live.address}/dashboard/new")
    signed_in.get_by_text("All settings").click()
    slider = signed_in.get_by_label("Longest example", exact=True)
    slider.press("End")
    expect(slider).to_have_attribute("aria-valuetext", f"{context:,}")
    slider.press("Home")
    slider.press("ArrowRight")
    expect(slider).to_have_attribute("aria-valuetext", "128")  # no data yet, which could be longer

    signed_in.goto(f"{live.address}/dashboard/new?training_file={file.id}")
    signed_in.get_by_text("All settings").click()
    figure = signed_in.locator(".plan .facts div").filter(has_text="Longest example")
    expect(figure).to_contain_text("tokens", timeout=30_000)
    longest = int(re.sub(r"\D", "", figure.inner_text()))
    assert 128 < longest < context
    stops = int(slider.get_attribute("max") or 0)
    for stop in range(1, stops + 1):
        slider.press("ArrowRight")
        expect(slider).not_to_have_attribute("aria-valuetext", "Automatic")
        length = slider.get_attribute("aria-valuetext")
        expect(figure).to_contain_text(f"{length} tokens")
        assert longest <= int((length or "").replace(",", "")) <= context, stop
    expect(slider).to_have_attribute("aria-valuetext", f"{context:,}")

    # Shorter ones, once it is said what becomes of the others
    signed_in.get_by_label("Longer examples").select_option("truncate")
    expect(slider).not_to_have_attribute("max", str(stops))
    slider.press("Home")
    slider.press("ArrowRight")
    expect(slider).to_have_attribute("aria-valuetext", "128")
    expect(figure).to_contain_text("128 tokens")
    expect(signed_in.locator(".plan").get_by_role("alert")).to_have_count(0)


def test_the_sample_fills_in_what_was_left_empty(live: Live, signed_in: Page) -> None:
    signed_in.goto(f"{live.address}/dashboard/new")
    signed_in.get_by_label("Name").fill("no")
    signed_in.get_by_label("Name").fill("")
    signed_in.get_by_role("button", name="Use the sample data").click()
    expect(signed_in.get_by_label("Name")).to_have_value("tickets")
    expect(signed_in.get_by_label("Prompts to watch")).to_have_value(re.compile(r"\S+.*\n\S+"))
