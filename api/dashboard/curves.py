"""A job's curves: the numbers of its metrics events, thinned and smoothed, as options of an ECharts chart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from api.dashboard.rest import Json

MOST_POINTS = 500  # of a line, sent to the browser
Point = tuple[float, float]  # step, value


@dataclass(frozen=True)
class Line:
    key: str  # in a metrics event's data
    name: str
    colour: str
    marks: bool = False  # few values, each worth a dot


@dataclass(frozen=True)
class View:
    """One chart to look at. `is_smoothed`: a noisy one, which the slider may calm."""

    label: str
    lines: tuple[Line, ...]
    is_smoothed: bool = True
    has_log: bool = False


BLUE, ORANGE, GREY = "#6366f1", "#e08a1e", "#8b8fa3"
LABELS = {"color": "#767c90", "fontSize": 12}  # read on white and on black alike, for a canvas knows no theme
FONT = "Inter, BlinkMacSystemFont, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif"
VIEWS = {
    "loss": View(
        "Loss",
        (
            Line("train_loss", "Training", BLUE),
            Line("valid_loss", "Validation", ORANGE, marks=True),
            Line("full_valid_loss", "Validation, whole file", GREY, marks=True),
        ),
        has_log=True,
    ),
    "learning_rate": View("Learning rate", (Line("learning_rate", "Learning rate", BLUE),), is_smoothed=False),
    "grad_norm": View("Gradient norm", (Line("grad_norm", "Gradient norm", BLUE),), has_log=True),
    "tokens_per_s": View("Tokens per second", (Line("tokens_per_s", "Tokens/s", BLUE),)),
}


@dataclass
class Curves:
    """What has been measured so far, by key. A step that a resumed attempt repeats replaces its earlier value."""

    points: dict[str, dict[int, float]] = field(default_factory=dict[str, dict[int, float]])

    def add(self, data: Json) -> None:
        """The data of a metrics event."""
        for view in VIEWS.values():
            for line in view.lines:
                value = data.get(line.key)
                if isinstance(value, int | float):
                    self.points.setdefault(line.key, {})[int(data["step"])] = float(value)

    @property
    def is_empty(self) -> bool:
        return not self.points

    def line(self, key: str, smoothing: float = 0.0) -> list[Point]:
        """In order of steps. `smoothing`: 0 is as measured, towards 1 ever calmer."""
        values = sorted(self.points.get(key, {}).items())
        return thin(smooth([(float(step), value) for step, value in values], smoothing))

    def best(self) -> Point | None:
        """The lowest loss over the whole validation file, which each checkpoint is measured by."""
        measured = self.points.get("full_valid_loss", {})
        if not measured:
            return None
        step = min(measured, key=lambda at: measured[at])
        return float(step), measured[step]


def smooth(points: Sequence[Point], weight: float) -> list[Point]:
    """Exponential moving average, corrected for its start (as in Adam, arXiv 1412.6980)."""
    smoothed: list[Point] = []
    mean, seen = 0.0, 0.0
    for step, value in points:
        mean = weight * mean + (1 - weight) * value
        seen = weight * seen + (1 - weight)
        smoothed.append((step, mean / seen))
    return smoothed


def thin(points: list[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most about `most` points: of each stretch its lowest and highest, so that no spike is lost."""
    if len(points) <= most:
        return points
    stretch = -(-2 * len(points) // most)
    kept: list[Point] = []
    for start in range(0, len(points), stretch):
        part = points[start : start + stretch]
        ends = {min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])}
        kept += sorted(ends)
    if kept[-1] != points[-1]:
        kept.append(points[-1])
    return kept


def options(curves: Curves, view: View, *, smoothing: float, is_log: bool) -> Json:
    series: list[Json] = []
    for line in view.lines:
        calm = smoothing if view.is_smoothed and not line.marks else 0.0
        points = curves.line(line.key, calm)
        if not points:
            continue
        series.append(
            {
                "type": "line",
                "name": line.name,
                "data": [[step, _rounded(value)] for step, value in points],
                "showSymbol": line.marks,
                "symbol": "circle",
                "symbolSize": 7,
                "lineStyle": {"width": 2, "color": line.colour},
                "itemStyle": {"color": line.colour},
                "emphasis": {"disabled": True},
            }
        )
    best = curves.best()
    if best is not None and view is VIEWS["loss"] and series:
        series[-1]["markPoint"] = {
            "data": [{"coord": [best[0], _rounded(best[1])], "value": "best", "name": "Best checkpoint"}],
            "symbolSize": 44,
            "label": {"fontSize": 11, "color": "#fff"},
            "itemStyle": {"color": "#15803d"},
        }
    grid_line = {"lineStyle": {"color": "rgba(128,132,150,0.22)"}}
    return {
        "animation": False,
        "grid": {"left": 8, "right": 16, "top": 40, "bottom": 8, "containLabel": True},
        "textStyle": {"fontFamily": FONT},
        "legend": {"top": 0, "left": 0, "textStyle": LABELS, "icon": "circle", "itemWidth": 9, "itemGap": 16},
        "tooltip": {
            "trigger": "axis",
            "confine": True,
            "axisPointer": {"type": "line"},
            "backgroundColor": "var(--surface)",
            "borderColor": "var(--line)",
            "textStyle": {"color": "var(--ink)", "fontSize": 12},
        },
        "xAxis": {
            "type": "value",
            "min": "dataMin",
            "max": "dataMax",
            "axisLabel": LABELS | {"hideOverlap": True},
            "axisTick": {"show": False},
            "axisPointer": {
                "label": {"show": False, "formatter": "Step {value}", "precision": 0}
            },  # the tooltip's heading
            "splitLine": {"show": False},
        },
        "yAxis": {
            "type": "log" if is_log and view.has_log else "value",
            "scale": True,
            "axisLabel": LABELS,
            "axisLine": {"show": False},
            "axisTick": {"show": False},
            "splitLine": grid_line,
        },
        "series": series,
    }


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
