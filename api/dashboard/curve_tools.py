"""What is chosen above a chart of curves (which of them, how smooth, on which scale): one row, for every such chart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from api.dashboard.blocks import tag, text
from api.dashboard.curves import VIEWS
from api.dashboard.fields import Choices


class CurveTools:
    """The row, drawn where it is made; `redraw` is called after every change."""

    def __init__(self, redraw: Callable[[], None]) -> None:
        self.view, self.smoothing, self.is_log = "loss", 0.6, False
        self._redraw = redraw
        with tag("div", "row between"):
            Choices("Curve", [(name, view.label) for name, view in VIEWS.items()], self._look_at)
            with tag("div", "row"):
                with tag("label", "row small quiet"):
                    text("span", "Smoothing")
                    smoothing = tag("input").props('type="range" min="0" max="0.95" step="0.05"')
                    smoothing.props["defaultValue"] = self.smoothing  # `value` would be put back at each drawing
                    smoothing.on("input", self._smooth, js_handler="(e) => emit(Number(e.target.value))", throttle=0.1)
                with tag("label", "row small quiet"):
                    log = tag("input").props('type="checkbox"')
                    log.on("change", self._log, js_handler="(e) => emit(e.target.checked)")
                    text("span", "Log scale")

    def _look_at(self, name: str) -> None:
        self.view = name
        self._redraw()

    def _smooth(self, event: Any) -> None:
        self.smoothing = float(event.args)
        self._redraw()

    def _log(self, event: Any) -> None:
        self.is_log = bool(event.args)
        self._redraw()
