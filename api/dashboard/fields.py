"""Fields of the small forms: each has a label, may have a word of help, and holds what was typed or chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

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


def text_field(
    label: str,
    *,
    value: str = "",
    help: str = "",
    attributes: str = "",
    on_change: Callable[[], object] | None = None,
    event: Literal["input", "change"] = "input",
    element: Literal["input", "textarea"] = "input",
) -> Field:
    """`attributes`: of the element, such as its type or a placeholder. `event`: at each letter, or when it is left."""
    with tag("div", "field"):
        control = _labelled(label, tag(element).props(f'autocomplete="off" {attributes}'), help)
        control.props["defaultValue"] = value  # `value` would be put back whenever the page is drawn anew
    return Field(control, value, on_change, event)


class FollowingField:
    """A text field for something that the page may change as well: it is made anew then, and only then, so that
    nobody's typing is lost. `make` builds the field over a value; `take` hears what was typed and returns how it is
    understood, which is what `show` will be given.
    """

    def __init__(self, make: Callable[[str, Callable[[], None]], Field], take: Callable[[str], str]) -> None:
        self._make = make
        self._take = take
        self._place = tag("div")
        self._understood: str | None = None

    def show(self, value: str) -> None:
        if value == self._understood:
            return
        self._understood = value
        self._place.clear()
        with self._place:
            field = self._make(value, lambda: self._typed(field))

    def _typed(self, field: Field) -> None:
        self._understood = self._take(field.value)


def slider_field(
    label: str,
    stops: Options,
    *,
    value: str,
    help: str = "",
    on_change: Callable[[str], object],
) -> None:
    """A slider with a stop for each value; the words of the stop that it stands at are shown beside its label, and
    told to screen readers. `on_change` gets the value.
    """
    labels = [words for _, words in stops]
    at = [one for one, _ in stops].index(value)
    with tag("div", "field"):
        slider = _labelled(label, tag("input").props(f'type="range" min="0" max="{len(stops) - 1}" step="1"'), help)
        slider.props["defaultValue"] = at
        slider.props["aria-valuetext"] = labels[at]
        shown = text("output", labels[at], "slider-value number")
        shown.props["for"] = slider.props["id"]
        shown.move(target_index=1)

    def take(event: object) -> None:
        chosen, words = stops[int(getattr(event, "args", at))]
        shown.text = words
        slider.props["aria-valuetext"] = words
        on_change(chosen)

    slider.on("input", take, js_handler="(e) => emit(e.target.value)", throttle=0.1)


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


class Choices:
    """A row of buttons of which one is pressed, to begin with the first: what of a list, or which curve, is shown.
    `on_choose` gets the value of the one that was pressed.
    """

    def __init__(self, label: str, options: Options, on_choose: Callable[[str], object]) -> None:
        self._on_choose = on_choose
        with tag("div", "choices").props('role="group"') as group:
            group.props["aria-label"] = label
            self._buttons = {value: self._button(value, words) for value, words in options}
        self._press(options[0][0])

    def _button(self, value: str, words: str) -> ui.element:
        button = text("button", words, "choice").props('type="button"')
        button.on("click", lambda: self._choose(value))
        return button

    def _choose(self, value: str) -> None:
        self._press(value)
        self._on_choose(value)

    def _press(self, value: str) -> None:
        for other, button in self._buttons.items():
            button.props["aria-pressed"] = str(other == value).lower()


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
