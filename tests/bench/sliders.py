"""What moving a slider costs in a real browser: from the key's press to the last of the plan's new figures on the page.

The browser's own clock says both, so that what drives it is no part of it.
"""

from __future__ import annotations

from playwright.sync_api import Page

from tests.dashboard.browser import DESKTOP, chromium, sign_in
from tests.live import Live

SLIDERS = ("Rank", "Scale", "Longest example")
SETTLED_MS = 300  # after which nothing more comes of a move
ANSWERED_MS = 60_000
# of each press the time of its event, and of whatever the plan shows the time of its last change
_WATCH = """() => {
  const plan = document.querySelector('.plan');
  window.move = {pressed: 0, changed: 0};
  addEventListener('keydown', (event) => { window.move = {pressed: event.timeStamp, changed: 0} }, true);
  new MutationObserver(() => { window.move.changed = performance.now() })
    .observe(plan, {subtree: true, childList: true, characterData: true, attributes: true});
}"""
_FIGURES = "document.querySelector('.plan .facts').textContent"
_IS_SETTLED = f"""(before) => {_FIGURES} !== before && window.move.changed > 0
  && performance.now() > window.move.changed + {SETTLED_MS}"""


def update_ms(live: Live, file_id: str) -> dict[str, list[float]]:
    """Milliseconds of each move, by the slider: through all its stops and back, each of them another plan.

    Raises playwright's TimeoutError when a move changes none of the plan's figures.
    """
    with chromium() as browser:
        page = browser.new_page(viewport=DESKTOP, reduced_motion="reduce")  # pyright: ignore[reportArgumentType]
        page.set_default_timeout(ANSWERED_MS)
        sign_in(page, live.address, live.key, f"/new?training_file={file_id}")
        page.get_by_text("All settings").click()
        page.locator(".plan .facts").wait_for()
        page.get_by_role("heading", name="The doctor’s verdict").wait_for()
        page.evaluate(_WATCH)
        return {label: _move_through(page, label) for label in SLIDERS}


def _move_through(page: Page, label: str) -> list[float]:
    slider = page.get_by_label(label, exact=True)
    slider.focus()
    stops = int(slider.get_attribute("max") or 0)
    times: list[float] = []
    for key in ("ArrowRight",) * stops + ("ArrowLeft",) * stops:
        before = page.evaluate(_FIGURES)
        page.keyboard.press(key)
        page.wait_for_function(_IS_SETTLED, arg=before)
        times.append(page.evaluate("window.move.changed - window.move.pressed"))
    return times
