"""Fields of the small forms: each has a label, may have a word of help, and holds what was typed or chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nicegui import ui

from api.dashboard.blocks import tag, text

Options = Sequence[tuple[str, str]]  # value, label


class Field:
    """`value`: what stands in it now."""

    def __init__(self, control: ui.element, value: str, on_change: Callable[[], object] | None, event: str) -> None:
        self.control = control
        self.value = value
        self._on_change = on_change
        control.on(event, self._take, js_handler="(e) => emit(e.target.value)")

    def _take(self, event: object) -> None:
        self.value = str(getattr(event, "args", ""))
        if self._on_change is not None:
            self._on_change()


def text_field(label: str, *, value: str = "", help: str = "", attributes: str = "") -> Field:
    """`attributes`: of the input, such as its type or a placeholder."""
    with tag("div", "field"):
        control = _labelled(label, tag("input").props(f'autocomplete="off" {attributes}'), help)
        control.props["defaultValue"] = value  # `value` would be put back whenever the page is drawn anew
    return Field(control, value, None, "input")


def choice_field(
    label: str,
    options: Options,
    *,
    value: str = "",
    help: str = "",
    on_change: Callable[[], object] | None = None,
) -> Field:
    with tag("div", "field"):
        control = _labelled(label, tag("select"), help)
        with control:
            for one, words in options:
                option = text("option", words)
                option.props["value"] = one
                if one == value:
                    option.props["selected"] = True
    return Field(control, value, on_change, "change")


class CheckGroup:
    """Check boxes under one legend; `chosen` in the order they stand."""

    def __init__(self, legend: str, options: Options, chosen: Sequence[str]) -> None:
        self._order = [value for value, _ in options]
        self._chosen = set(chosen)
        with tag("fieldset", "field checks"):
            text("legend", legend, "label")
            for value, words in options:
                with tag("label", "check"):
                    box = tag("input").props('type="checkbox"')
                    if value in chosen:
                        box.props["checked"] = True
                    text("span", words)
                    self._follow(box, value)

    @property
    def chosen(self) -> list[str]:
        return [value for value in self._order if value in self._chosen]

    def _follow(self, box: ui.element, value: str) -> None:
        def take(event: object) -> None:
            (self._chosen.add if getattr(event, "args", False) else self._chosen.discard)(value)

        box.on("change", take, js_handler="(e) => emit(e.target.checked)")


def _labelled(label: str, control: ui.element, help: str) -> ui.element:
    name = f"field-{control.id}"
    control.props["id"] = name
    caption = text("label", label)
    caption.props["for"] = name
    caption.move(target_index=0)
    if help:
        control.props["aria-describedby"] = f"{name}-help"
        text("span", help, "help").props["id"] = f"{name}-help"
    return control
