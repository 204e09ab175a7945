"""Presets, and every choice behind a fold: each with a sentence on what it does and when to touch it."""

from __future__ import annotations

from collections.abc import Callable

from nicegui.elements.mixins.text_element import TextElement

from api.dashboard.blocks import tag, text
from api.dashboard.draft import BY_NAME, PRESETS, SETTINGS, Draft, Setting, Unreadable
from api.dashboard.fields import Field, choice_field, slider_field, text_field
from api.dashboard.length_bounds import LengthBounds

AUTO = "Automatic"


class SettingsForm:
    def __init__(self, draft: Draft, bounds: LengthBounds, on_change: Callable[[], None]) -> None:
        self._draft = draft
        self._bounds = bounds
        self._bounded = bounds.ends  # as the slider of lengths shows them
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

    def fit_length(self) -> None:
        """Give the slider of lengths other stops where data or base have changed its ends; else leave it as it is."""
        if self._bounded != self._bounds.ends:
            self._bounded = self._bounds.ends
            self._length.clear()
            with self._length:
                self._field(BY_NAME["length"])

    def _show_fields(self) -> None:
        self._fields.clear()
        with self._fields:
            for setting in SETTINGS:
                with tag("div", "stack tight") as place:
                    self._field(setting)
                if setting.name == "length":
                    self._length = place

    def _field(self, setting: Setting) -> None:
        bounded = self._bounds.stops() if setting.name == "length" else None  # which may move what stands there
        now = self._draft.settings.get(setting.name, "")
        if setting.is_slider:
            stops = setting.stops(now) if bounded is None else bounded
            slider_field(
                setting.label,
                [("", AUTO), *stops],
                value=now,
                help=setting.help,
                on_change=lambda chosen: self._set(setting, chosen, problem),
            )
        else:
            field = self._plain_field(setting, now, lambda: self._set(setting, field.value, problem))
        problem = text("span", "", "problem").props('role="alert"')
        if setting.name == "scale":
            self._alpha = text("span", self._draft.alpha(), "effect")

    def _plain_field(self, setting: Setting, now: str, on_change: Callable[[], None]) -> Field:
        if setting.options:
            options = [("", AUTO), *setting.stops(now)]
            return choice_field(setting.label, options, value=now, help=setting.help, on_change=on_change)
        attributes = f'inputmode="decimal" placeholder="{AUTO}"'
        return text_field(
            setting.label, value=now, help=setting.help, attributes=attributes, on_change=on_change, event="change"
        )

    def _set(self, setting: Setting, chosen: str, problem: TextElement) -> None:
        typed = chosen.strip()
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
