"""The pieces that pages are built of: elements with their classes, empty states, refusals, skeletons, states."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Any, Literal

from nicegui import ui
from nicegui.elements.mixins.text_element import TextElement

from api.dashboard.rest import Refused, SignedOut
from api.dashboard.visit import leave_for_sign_in

Kind = Literal["primary", "plain", "danger", "text"]

# How a state is shown: its class, and its word
STATES = {
    "validating_files": ("waiting", "Checking data"),
    "queued": ("waiting", "Queued"),
    "running": ("running", "Running"),
    "paused": ("paused", "Paused"),
    "succeeded": ("good", "Succeeded"),
    "failed": ("bad", "Failed"),
    "cancelled": ("off", "Cancelled"),
}


def tag(name: str, classes: str = "") -> ui.element:
    return ui.element(name).classes(classes)


def text(name: str, content: str, classes: str = "") -> TextElement:
    """An element of nothing but text, whatever the text holds."""
    return TextElement(tag=name, text=content).classes(classes)


def root() -> str:
    """Where the dashboard is mounted, for addresses in attributes."""
    return str(ui.context.client.request.scope.get("root_path", ""))


def link(path: str, classes: str = "", *, label: str = "") -> ui.element:
    """A link to a page of the dashboard; its content goes into it, or `label`."""
    element = TextElement(tag="a", text=label).classes(classes)
    element.props["href"] = f"{root()}{path}"
    return element


def button(
    label: str,
    on_click: Callable[[], Coroutine[Any, Any, None]] | Callable[[], None],
    *,
    kind: Kind = "plain",
    icon: str = "",
) -> ui.element:
    """A button that says what it does, is out of reach while it does it, and shows a refusal beside the pointer."""
    element = tag("button", f"button {kind}")
    element.props["type"] = "button"
    with element:
        if icon:
            ui.icon(icon).props('aria-hidden="true"')
        text("span", label)

    async def click() -> None:
        enable(element, False)
        element.props["aria-busy"] = "true"
        try:
            done = on_click()
            if done is not None:
                await done
        except SignedOut:
            leave_for_sign_in()
        except Refused as refused:
            tell(refused.message, bad=True)
        finally:
            if not element.is_deleted and "aria-busy" in element.props:  # else the handler said how it is to be
                enable(element, True)

    element.on("click", click)
    return element


def enable(element: ui.element, on: bool) -> None:
    element.props.pop("aria-busy", None)
    if on:
        element.props.pop("disabled", None)
    else:
        element.props["disabled"] = True
    element.update()


def tell(message: str, *, bad: bool = False) -> None:
    """A short word at the foot of the page; read out by screen readers."""
    ui.notify(message, type="negative" if bad else "positive", position="bottom", timeout=8000 if bad else 3000)


@contextmanager
def card(title: str = "", *, classes: str = "", note: str = "") -> Generator[ui.element]:
    with tag("section", f"card {classes}") as element:
        if title:
            with tag("div", "card-head"):
                text("h2", title)
                if note:
                    text("span", note, "quiet small")
        yield element


def empty(title: str, what_to_do: str, action: tuple[str, str] | None = None) -> None:
    """An empty state says what would be here and how to get it. `action`: label and path."""
    with tag("div", "empty"):
        text("h2", title)
        text("p", what_to_do)
        if action is not None:
            link(action[1], "button primary", label=action[0])


def notice(message: str, kind: Literal["error", "warning", "good", "hint"] = "hint") -> ui.element:
    """A message where it arose."""
    element = text("p", message, f"notice {kind}")
    element.props["role"] = "alert" if kind == "error" else "status"
    return element


def skeleton(lines: int = 3, classes: str = "") -> ui.element:
    """Holds the place of what is being fetched, at its size."""
    with tag("div", f"skeleton {classes}") as element:
        element.props["aria-hidden"] = "true"
        for _ in range(lines):
            tag("div")
    return element


@contextmanager
def refusals_in(place: ui.element) -> Generator[None]:
    """Show what the API refuses in `place`; a session that has ended leads to signing in."""
    try:
        yield
    except SignedOut:
        leave_for_sign_in()
    except Refused as refused:
        place.clear()
        with place:
            notice(refused.message, "error")


def state(status: str) -> ui.element:
    """The state of a job, as a word with a colour."""
    kind, word = STATES.get(status, ("off", status))
    return text("span", word, f"state {kind}")


def facts(rows: list[tuple[str, str]], classes: str = "") -> dict[str, TextElement]:
    """Names and values; what holds each value, by its name, for whoever changes it later."""
    held: dict[str, TextElement] = {}
    with tag("dl", f"facts {classes}"):
        for name, value in rows:
            with tag("div"):
                text("dt", name)
                held[name] = text("dd", value)
    return held


def copyable(content: str, label: str) -> None:
    """Text to be copied, with a button that does it."""
    with tag("div", "copyable"):
        text("pre", content).props('tabindex="0"').props["aria-label"] = label
        with tag("button", "icon-button").props('type="button" data-copy') as copy:
            copy.props["aria-label"] = f"Copy: {label}"
            ui.icon("content_copy").props('aria-hidden="true"')
