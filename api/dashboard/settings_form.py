"""Presets, and every choice behind a fold: each with a sentence on what it does and when to touch it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nicegui.elements.mixins.text_element import TextElement

from api.dashboard.blocks import tag, text
from api.dashboard.draft import PRESETS, SETTINGS, Draft, Setting, Unreadable

AUTO = "Automatic"


class SettingsForm:
    def __init__(self, draft: Draft, on_change: Callable[[], None]) -> None:
        self._draft = draft
        self._on_change = on_change
        self._alpha: TextElement | None = None
        with tag("fieldset", "stack tight"):
            text("legend", "How thoroughly", "strong")
            with tag("div", "presets"):
                for name, (label, purpose, chosen) in PRESETS.items():
                    self._preset(name, label, purpose, is_chosen=draft.settings == chosen)
        with tag("details", "fold") as fold:
            text("summary", "All settings")
            if draft.settings and draft.settings not in [chosen for _, _, chosen in PRESETS.values()]:
                fold.props["open"] = True
            self._fields = tag("div", "settings")
            self._show_fields()

    def _preset(self, name: str, label: str, purpose: str, *, is_chosen: bool) -> None:
        with tag("label", "preset"):
            radio = tag("input").props(f'type="radio" name="preset" value="{name}"')
            if is_chosen:
                radio.props["checked"] = True
            radio.on("change", lambda: self._take(name))
            with tag("span", "stack tight"):
                text("span", label, "strong")
                text("span", purpose, "small quiet")

    def _take(self, name: str) -> None:
        self._draft.settings = dict(PRESETS[name][2])
        self._show_fields()
        self._on_change()

    def _show_fields(self) -> None:
        self._fields.clear()
        with self._fields:
            for setting in SETTINGS:
                self._field(setting)

    def _field(self, setting: Setting) -> None:
        now = self._draft.settings.get(setting.name, "")
        values = [value for value, _ in setting.options]
        with tag("div", "field"):
            text("label", setting.label).props(f'for="set-{setting.name}"')
            if setting.options:
                control = tag("select")
                with control:
                    for value, label in (
                        ("", AUTO),
                        *setting.options,
                        *(((now, now),) if now not in ("", *values) else ()),
                    ):
                        option = text("option", label)
                        option.props["value"] = value
                        if value == now:
                            option.props["selected"] = True
            else:
                control = tag("input").props(f'inputmode="decimal" placeholder="{AUTO}" autocomplete="off"')
                control.props["value"] = now
            control.props["id"] = f"set-{setting.name}"
            control.props["aria-describedby"] = f"help-{setting.name}"
            problem = text("span", "", "problem").props('role="alert"')
            text("span", setting.help, "help").props(f'id="help-{setting.name}"')
            if setting.name == "scale":
                self._alpha = text("span", self._draft.alpha(), "effect")
            control.on(
                "change",
                lambda event: self._set(setting, event, problem),
                js_handler="(e) => emit(e.target.value)",
            )

    def _set(self, setting: Setting, event: Any, problem: TextElement) -> None:
        typed = str(event.args).strip()
        problem.text = ""
        if typed:
            self._draft.settings[setting.name] = typed
            try:
                setting.read(typed)
            except Unreadable as unreadable:
                problem.text = str(unreadable)
        else:
            self._draft.settings.pop(setting.name, None)
        if self._alpha is not None:
            self._alpha.text = self._draft.alpha()
        self._on_change()
