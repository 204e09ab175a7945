"""Base models as cards to choose from: size, licence, memory, what each is good at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from api.dashboard.blocks import notice, tag, text
from api.dashboard.draft import Draft
from api.dashboard.rest import Json

FIRST_SHOWN = 4
NF4_BITS = 4.127  # per weight, with double quantisation (arXiv 2305.14314)


class BaseChoice:
    """Radio cards; those that are ready come first, then by size."""

    def __init__(self, bases: list[Json], draft: Draft, on_change: Callable[[], None]) -> None:
        usable = [base for base in bases if base["status"] != "error"]
        self._bases = sorted(usable, key=lambda base: (base["status"] != "ready", base["parameters"] or 0))
        self._draft = draft
        self._on_change = on_change
        self._searched = ""
        self._all = draft.model is not None and draft.model not in [base["id"] for base in self._bases[:FIRST_SHOWN]]
        if not self._bases:
            notice("There is no base model yet. An operator adds one: attune models add Qwen/Qwen3-0.6B", "warning")
            return
        if draft.model is None and self._bases[0]["status"] == "ready":
            draft.model = self._bases[0]["id"]
        elif draft.model is not None and draft.model not in [base["id"] for base in self._bases]:
            notice(f"Goes on from {draft.model}. Choose a base to begin anew.")
        if len(self._bases) > FIRST_SHOWN:
            search = tag("input", "search").props('type="search" placeholder="Search bases" aria-label="Search bases"')
            search.on("input", self._search, js_handler="(e) => emit(e.target.value)")
        self._cards = tag("fieldset", "base-cards")
        self._more = tag("button", "text-button").props('type="button"')
        with self._more:
            self._more_label = text("span", "")
        self._more.on("click", self._show_all)
        self._show()

    def _search(self, event: Any) -> None:
        self._searched = str(event.args).strip().lower()
        self._show()

    def _show_all(self) -> None:
        self._all = not self._all
        self._show()

    def _show(self) -> None:
        found = [base for base in self._bases if self._searched in f"{base['id']} {base['description']}".lower()]
        shown = found if self._all or self._searched else found[:FIRST_SHOWN]
        self._cards.clear()
        with self._cards:
            text("legend", "Base model", "sr-only")
            for base in shown:
                self._card(base)
            if not shown:
                text("p", "No base has these words.", "quiet")
        self._more.set_visibility(len(self._bases) > FIRST_SHOWN and not self._searched)
        self._more_label.text = "Show fewer" if self._all else f"Show all {len(self._bases)}"

    def _card(self, base: Json) -> None:
        with tag("label", "base-card"):
            radio = tag("input").props('type="radio" name="base"')
            radio.props["value"] = base["id"]
            if base["id"] == self._draft.model:
                radio.props["checked"] = True
            radio.on("change", lambda: self._choose(base["id"]))
            with tag("span", "stack tight"):
                text("span", base["id"], "strong")
                text("span", base["description"] or "", "small")
                with tag("span", "tags"):
                    for word in _tags(base):
                        text("span", word, "tag")

    def _choose(self, model: str) -> None:
        self._draft.model = model
        self._on_change()


def _tags(base: Json) -> list[str]:
    words: list[str] = []
    if base["parameters"]:
        words.append(f"{short_count(base['parameters'])} parameters")
        words.append(f"{short_bytes(base['parameters'] * NF4_BITS / 8)} in 4 bit")
    if base["licence"]:
        words.append(base["licence"])
    if base["gated"]:
        words.append("needs access at the hub")
    words.append({"ready": "ready", "preparing": "being fetched"}.get(base["status"], "fetched when first used"))
    return words


def short_count(count: float) -> str:
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return f"{count:g}"


def short_bytes(count: float) -> str:
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} bytes"
