"""What every page stands in: its head, the navigation and its heading."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from nicegui import ui

from api.dashboard.blocks import link, tag, text
from api.dashboard.marks import MARK
from api.dashboard.visit import Visit


@dataclass(frozen=True)
class Place:
    """An entry of the navigation. `icon`: of Material Icons. `scope`: what a key needs to get anything there;
    `operator` is the scope of no project's key."""

    name: str
    path: str
    icon: str
    scope: str = "read"


PLACES = (
    Place("Train", "/new", "add_circle_outline", "write"),
    Place("Jobs", "/", "timeline"),
    Place("Models", "/models", "inventory_2"),
    Place("Compare", "/compare", "forum", "inference"),
    Place("Data", "/data", "dataset"),
    Place("Keys", "/keys", "key", "admin"),
    Place("Webhooks", "/webhooks", "webhook"),
    Place("Workers", "/workers", "memory", "operator"),
    Place("Settings", "/settings", "settings"),
)

# Before anything is drawn, so that a chosen theme does not flash; Quasar's own parts follow the same choice
_HEAD = """<meta name="color-scheme" content="{scheme}"><link rel="stylesheet" href="{root}/static/theme.css">
<style>:root{{color-scheme:{scheme}}}</style><script src="{root}/static/frame.js"></script>"""
_SCHEMES = {"auto": "light dark", "light": "light", "dark": "dark"}
_DARK = {"auto": None, "light": False, "dark": True}


@contextmanager
def frame(visit: Visit, title: str, *, active: str = "", wide: bool = False) -> Generator[ui.element]:
    """The page's shell; its content goes into the block. Yields the row of its heading, for actions."""
    root = str(ui.context.client.request.scope.get("root_path", ""))
    ui.add_head_html(_HEAD.format(scheme=_SCHEMES[visit.theme], root=root))
    ui.dark_mode(_DARK[visit.theme])
    ui.page_title(f"{title} · Attune")
    ui.colors(primary="#4f46e5")
    with tag("a", "skip").props('href="#main"'):
        text("span", "Skip to the content")
    with tag("div", "shell"):
        _navigation(visit, active)
        with tag("main", "content wide" if wide else "content").props('id="main" tabindex="-1"'):
            with tag("header", "page-head") as head:
                text("h1", title)
            yield head


def _navigation(visit: Visit, active: str) -> None:
    with tag("div", "side"):
        with tag("div", "brand-row"):
            with link("/", "brand"):
                ui.html(MARK.format(colour="currentColor"), sanitize=False)
                text("span", "Attune")
            with tag("button", "icon-button menu").props(
                'type="button" aria-label="Menu" aria-expanded="false" aria-controls="menu" data-menu'
            ):
                ui.icon("menu").props('aria-hidden="true"')
        with tag("nav", "places").props('id="menu" aria-label="Main"'):
            for place in PLACES:
                if not visit.may(place.scope):
                    continue
                with link(place.path, "place") as entry:
                    if place.name == active:
                        entry.props('aria-current="page"')
                    ui.icon(place.icon).props('aria-hidden="true"')
                    text("span", place.name)
            _account(visit)


def _account(visit: Visit) -> None:
    root = str(ui.context.client.request.scope.get("root_path", ""))
    with tag("div", "account"):
        with tag("label", "theme-choice"):
            text("span", "Theme")
            with tag("select").props("data-theme-choice"):
                for name in _SCHEMES:
                    chosen = "selected" if name == visit.theme else ""
                    text("option", name.capitalize()).props(f'value="{name}" {chosen}')
        text("div", visit.project_name, "who")
        text("div", f"{visit.key_name}{' (operator)' if visit.is_operator else ''}", "quiet small cut")
        with (
            tag("form").props(f'method="post" action="{root}/sign-out"'),
            tag("button", "text-button").props('type="submit"'),
        ):
            text("span", "Sign out")
