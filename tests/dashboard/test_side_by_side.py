"""Comparing: models side by side in a chat, and two jobs' curves over each other with what differs."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from tests.dashboard.conftest import Trained
from tests.live import BASE, Live


def test_the_same_words_go_to_every_model_and_each_answers(live: Live, trained: Trained, signed_in: Page) -> None:
    signed_in.goto(f"{live.address}/dashboard/compare?models={trained.models[0]}")
    columns = signed_in.get_by_label("Model", exact=True)
    expect(columns).to_have_count(2)
    expect(columns.nth(0)).to_have_value(trained.models[0])
    expect(columns.nth(1)).to_have_value(BASE)
    signed_in.get_by_role("button", name="Add a model").click()
    expect(columns).to_have_count(3)
    columns.nth(2).select_option(trained.models[1])
    signed_in.get_by_text("Settings").last.click()
    signed_in.get_by_label("Most tokens").fill("8")
    signed_in.get_by_label("Message to all models").fill("order 7?")
    signed_in.keyboard.press("Enter")
    expect(signed_in.get_by_text(re.compile(r"^[1-8] tokens"))).to_have_count(3, timeout=60_000)
    asked = [{"role": "user", "content": "order 7?"}]
    for at, model in enumerate((trained.models[0], BASE, trained.models[1])):
        answer = live.client().chat.completions.create(model=model, messages=asked, temperature=0, max_tokens=8)  # pyright: ignore
        shown = signed_in.get_by_label("Conversation").nth(at).locator(".by-model").text_content()
        choice = answer.choices[0]  # one that was cut says so below, and not that it is nothing
        assert shown == (choice.message.content or ("" if choice.finish_reason == "length" else "(nothing)"))


def test_a_slider_turns_the_adapter_down_to_the_base(live: Live, trained: Trained, signed_in: Page) -> None:
    """Three columns: the model at no strength, its base, and the model at twice its strength."""
    model = trained.models[1]
    signed_in.goto(f"{live.address}/dashboard/compare?models={model}&models={BASE}&models={model}")
    sliders = signed_in.get_by_label("Adapter strength")
    expect(sliders).to_have_count(2)
    sliders.nth(0).press("Home")
    sliders.nth(1).press("End")
    expect(sliders.nth(0)).to_have_attribute("aria-valuetext", "0.0x")
    expect(sliders.nth(1)).to_have_attribute("aria-valuetext", "2.0x")
    signed_in.get_by_text("Settings").last.click()
    signed_in.get_by_label("Most tokens").fill("8")
    signed_in.get_by_label("Message to all models").fill("order 7?")
    signed_in.keyboard.press("Enter")
    counts = signed_in.get_by_text(re.compile(r"^[1-8] tokens"))
    expect(counts).to_have_count(3, timeout=60_000)
    assert [" at 0x " in counts.nth(0).inner_text(), " at 2x " in counts.nth(2).inner_text()] == [True, True]
    shown = [signed_in.get_by_label("Conversation").nth(at).locator(".by-model").text_content() for at in range(3)]
    asked = [{"role": "user", "content": "order 7?"}]
    twice = live.client().chat.completions.create(
        model=model,
        messages=asked,  # pyright: ignore[reportArgumentType]
        temperature=0,
        max_tokens=8,
        extra_body={"attune": {"adapter_scale": 2}},
    )
    assert shown[0] == shown[1]
    assert shown[2] == (twice.choices[0].message.content or "(nothing)")
    assert shown[2] != shown[1]


def test_stopping_keeps_what_was_said_and_lets_ask_again(live: Live, trained: Trained, signed_in: Page) -> None:
    signed_in.goto(f"{live.address}/dashboard/compare?models={BASE}")
    signed_in.get_by_text("Settings").last.click()
    signed_in.get_by_label("Most tokens").fill("400")
    signed_in.get_by_label("Temperature").fill("9")
    signed_in.get_by_label("Message to all models").fill("tell me all")
    signed_in.get_by_role("button", name="Send").click()
    expect(signed_in.get_by_text("Temperature is a number from 0 to 2.")).to_be_visible()
    signed_in.get_by_label("Temperature").fill("2")
    signed_in.get_by_label("Message to all models").fill("tell me all")
    signed_in.get_by_role("button", name="Send").click()
    signed_in.get_by_role("button", name="Stop").click()
    expect(signed_in.get_by_role("button", name="Send")).to_be_enabled()
    expect(signed_in.get_by_text(re.compile("stopped$")).first).to_be_visible()
    signed_in.get_by_role("button", name="Begin anew").click()
    expect(signed_in.get_by_text("tell me all")).to_have_count(0)


def test_two_jobs_are_laid_over_each_other_with_what_differs(live: Live, trained: Trained, signed_in: Page) -> None:
    first, second = trained.jobs
    signed_in.goto(f"{live.address}/dashboard/compare/jobs?a={first}&b={second}")
    expect(signed_in.locator(".chart canvas")).to_be_visible()
    table = signed_in.get_by_role("region", name="What differs")
    expect(table.get_by_role("row", name="lora rank 4 8")).to_be_visible()
    expect(table.get_by_role("row", name="base model")).to_have_count(0)
    signed_in.get_by_label("Second job").select_option(first)
    expect(signed_in.get_by_text("Nothing: both jobs were asked for the same")).to_be_visible()
