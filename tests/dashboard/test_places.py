"""The pages that do what REST does: models, data, keys, webhooks, workers, settings, and the embedded job."""

from __future__ import annotations

import io
import re
import zipfile

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.api.receiver import receiver
from tests.dashboard.browser import DESKTOP, PHONE, grave_findings, overflow, sign_in
from tests.dashboard.conftest import FEW, Trained
from tests.live import Live


def test_a_model_shows_where_it_comes_from_and_can_be_taken_home(live: Live, trained: Trained, signed_in: Page) -> None:
    signed_in.goto(f"{live.address}/dashboard/models")
    signed_in.locator(f'a[href$="{trained.models[0]}"]').click()
    expect(signed_in.get_by_text("rank 4, scale")).to_be_visible()
    expect(signed_in.get_by_text("first.jsonl").first).to_be_visible()
    expect(signed_in.get_by_text("It answers otherwise than its base")).to_be_visible()
    compile(signed_in.get_by_label("Use with openai", exact=True).inner_text(), "use.py", "exec")
    with signed_in.expect_download() as download:
        signed_in.get_by_role("link", name="Download").click()
    with live.http() as http:
        wanted = http.get(f"/v1/attune/models/{trained.models[0]}/download").content
    got = download.value.path().read_bytes()
    assert got == wanted
    assert "adapter_model.safetensors" in zipfile.ZipFile(io.BytesIO(got)).namelist()
    assert live.key not in download.value.url


def test_downloads_want_a_session_and_pass_refusals_on(live: Live, trained: Trained, signed_in: Page) -> None:
    address = f"{live.address}/dashboard/download/models/{trained.models[0]}"
    assert httpx.get(address, trust_env=False).status_code == httpx.codes.SEE_OTHER
    assert signed_in.request.get(f"{address}x").status == httpx.codes.NOT_FOUND
    assert signed_in.request.get(address, headers={"Range": "bytes=0-1"}).body() == b"PK"


def test_a_model_is_deleted_after_a_question(live: Live, trained: Trained, signed_in: Page) -> None:
    spare = trained.checkpoint
    signed_in.goto(f"{live.address}/dashboard/models/{spare}")
    signed_in.get_by_role("button", name="Delete", exact=True).click()
    signed_in.get_by_role("button", name="Keep it").click()
    signed_in.get_by_role("button", name="Delete", exact=True).click()
    signed_in.get_by_role("button", name="Delete the model").click()
    signed_in.wait_for_url("**/models")
    with live.http() as http:
        assert http.get(f"/v1/models/{spare}").status_code == httpx.codes.NOT_FOUND


def test_another_name_is_given_and_taken_away(live: Live, trained: Trained, signed_in: Page) -> None:
    signed_in.goto(f"{live.address}/dashboard/models")
    signed_in.get_by_label("New name").fill("shop-bot")
    signed_in.get_by_label("Answers as").select_option(trained.models[0])
    signed_in.get_by_role("button", name="Add the name").click()
    expect(signed_in.get_by_text(f"answers as {trained.models[0]}")).to_be_visible()
    with live.http() as http:
        assert http.get("/v1/models/shop-bot").json()["attune"]["alias_of"] == trained.models[0]
        signed_in.get_by_role("button", name="Remove shop-bot").click()
        signed_in.get_by_role("button", name="Remove it").click()
        expect(signed_in.get_by_text("No model has another name yet.")).to_be_visible()
        assert http.get("/v1/models/shop-bot").status_code == httpx.codes.NOT_FOUND


def test_a_file_is_dropped_judged_and_deleted(live: Live, signed_in: Page) -> None:
    signed_in.goto(f"{live.address}/dashboard/data")
    broken = FEW + '\n{"messages": [{"role": "nobody", "content": "x"}]}'
    signed_in.get_by_label("Drop a file, or choose one").set_input_files(
        {"name": "wrong.jsonl", "mimeType": "application/jsonl", "buffer": broken.encode()}
    )
    expect(signed_in.get_by_text("wrong.jsonl cannot be trained on")).to_be_visible()
    signed_in.get_by_role("link", name="wrong.jsonl").click()
    expect(signed_in.get_by_role("row", name=re.compile(r"^65 .*nobody"))).to_be_visible()
    expect(signed_in.get_by_text("order 0?")).to_be_visible()
    signed_in.get_by_role("button", name="Delete", exact=True).click()
    signed_in.get_by_role("button", name="Delete the file").click()
    signed_in.wait_for_url("**/data")
    expect(signed_in.get_by_role("link", name="wrong.jsonl")).to_have_count(0)


def test_a_key_is_shown_once_does_what_it_may_and_is_revoked(live: Live, signed_in: Page) -> None:
    signed_in.goto(f"{live.address}/dashboard/keys")
    signed_in.get_by_role("button", name="Make the key").click()
    expect(signed_in.get_by_text("Give it a name")).to_be_visible()
    signed_in.get_by_label("Name").fill("reader")
    signed_in.get_by_label("It expires").select_option("7")
    for scope in ("Write:", "Inference:"):
        signed_in.get_by_label(scope).uncheck()
    signed_in.get_by_role("button", name="Make the key").click()
    key = signed_in.get_by_label("The new key", exact=True).last.inner_text()
    signed_in.get_by_role("button", name="I have kept it").click()
    expect(signed_in.get_by_text(key)).to_have_count(0)
    with httpx.Client(base_url=live.address, headers={"Authorization": f"Bearer {key}"}, trust_env=False) as http:
        assert http.get("/v1/files").status_code == httpx.codes.OK
        assert http.post("/v1/chat/completions", json={}).status_code == httpx.codes.FORBIDDEN
        signed_in.get_by_role("button", name="Revoke reader").click()
        signed_in.get_by_role("button", name="Revoke the key").click()
        expect(signed_in.get_by_role("button", name="Revoke reader")).to_have_count(0)
        assert http.get("/v1/files").status_code == httpx.codes.UNAUTHORIZED


def test_a_webhook_is_added_tested_and_deleted(live: Live, signed_in: Page) -> None:
    with receiver() as server:
        signed_in.goto(f"{live.address}/dashboard/webhooks")
        signed_in.get_by_label("Name").fill("my server")
        signed_in.get_by_label("Address").fill(f"{server.url}/hook")
        signed_in.get_by_role("button", name="Add the endpoint").click()
        secret = signed_in.get_by_label("Signing secret", exact=True).last.inner_text()
        assert secret.startswith("whsec_")
        signed_in.get_by_role("button", name="I have kept it").click()
        signed_in.get_by_role("link", name="my server").click()
        signed_in.get_by_role("button", name="Send it").click()
        expect(signed_in.get_by_text("Your server answered with 204.")).to_be_visible()
        assert len(server.at("/hook")) == 1
        assert secret not in signed_in.content()
        signed_in.get_by_role("button", name="Delete", exact=True).click()
        signed_in.get_by_role("button", name="Delete it").click()
        signed_in.wait_for_url("**/webhooks")
        expect(signed_in.get_by_text("None yet")).to_be_visible()


def test_a_limit_is_set_and_lifted(live: Live, signed_in: Page) -> None:
    signed_in.goto(f"{live.address}/dashboard/settings")
    signed_in.get_by_text("Change the limits").click()
    signed_in.get_by_role("textbox", name="Unfinished jobs").fill("99")
    signed_in.get_by_role("button", name="Save").click()
    expect(signed_in.get_by_text(re.compile(r"^\d+ of 99$"))).to_be_visible()
    signed_in.get_by_role("textbox", name="Unfinished jobs").fill("")
    signed_in.get_by_role("button", name="Save").click()
    expect(signed_in.get_by_text(re.compile(r"^\d+, no limit$"))).to_be_visible()


def test_a_key_sees_no_more_places_than_it_may_enter(live: Live, page: Page) -> None:
    with live.http() as http:
        made = http.post("/v1/attune/keys", json={"name": "reads only", "scopes": ["read"]}).json()
    sign_in(page, live.address, made["key"], "/workers")
    expect(page.get_by_text("This is for operators")).to_be_visible()
    places = page.get_by_role("navigation", name="Main").get_by_role("link").all_inner_texts()
    assert [place.split("\n")[-1] for place in places] == ["Jobs", "Models", "Data", "Webhooks", "Settings"]
    page.goto(f"{live.address}/dashboard/webhooks")
    expect(page.get_by_role("button", name="Add the endpoint")).to_have_count(0)


def test_an_embedded_job_needs_its_token_alone(live: Live, trained: Trained, page: Page) -> None:
    job = trained.jobs[0]
    with live.http() as http:
        path = http.post(f"/v1/attune/fine_tuning/jobs/{job}/embed_tokens").json()["path"]
    page.goto(f"{live.address}{path}")
    expect(page.get_by_role("heading", name="first")).to_be_visible()
    expect(page.get_by_role("status")).to_have_text("Succeeded")
    expect(page.locator("polyline.train")).to_have_attribute("points", re.compile(r"\d+\.\d,\d+\.\d \d+"))
    assert not grave_findings(page)
    page.goto("about:blank")
    page.goto(f"{live.address}{path[:-1]}{'0' if path[-1] != '0' else '1'}")
    expect(page.get_by_role("alert")).to_contain_text("was not signed here")


@pytest.mark.parametrize("size", ["desktop", "phone"])
def test_the_places_fit_and_axe_finds_nothing_serious(
    live: Live, trained: Trained, browser: Browser, size: str
) -> None:
    theme = "light" if size == "desktop" else "dark"
    context = browser.new_context(
        viewport=PHONE if size == "phone" else DESKTOP,  # pyright: ignore[reportArgumentType]
        color_scheme=theme,
        reduced_motion="reduce",
    )
    page = context.new_page()
    sign_in(page, live.address, live.key)
    file = live.client().fine_tuning.jobs.retrieve(trained.jobs[0]).training_file
    with live.http() as http:
        kinds = {"event_types": ["fine_tuning.job.succeeded"]}
        endpoint = http.post(
            "/v1/attune/webhook_endpoints", json={"name": "fits", "url": "http://127.0.0.1:9/hook", **kinds}
        ).json()
    for path, ready in (
        ("/models", "Base models"),
        (f"/models/{trained.models[0]}", "Where it comes from"),
        ("/compare", "Its answers appear here."),
        ("/compare/jobs", "What differs"),
        ("/data", "first.jsonl"),
        ("/keys", "A new key"),
        ("/webhooks", "A new endpoint"),
        ("/workers", "they train"),
        ("/settings", "Use and limits"),
        (f"/data/{file}", "order 0?"),
        (f"/webhooks/{endpoint['id']}", "Send a test"),
    ):
        page.goto(f"{live.address}/dashboard{path}")
        expect(page.get_by_text(ready).first).to_be_visible()
        assert overflow(page) <= 0, path
        assert not grave_findings(page), path
    with live.http() as http:
        http.delete(f"/v1/attune/webhook_endpoints/{endpoint['id']}")
    context.close()
