"""A small chart writer: line charts as SVG text, for a page's style sheet or as files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

#: Room around the plot for tick labels (left, right, top, bottom), in SVG units.
MARGIN = (54.0, 16.0, 10.0, 34.0)
WIDTH, HEIGHT = 520.0, 230.0
#: Height of a chart's title in a sheet, and of its legend.
_TITLE = 30.0
_STYLE = (
    "text{font:11px system-ui,sans-serif;fill:#85847d}.title{font-size:13px;fill:#1c1c1a}"
    ".note{fill:#55544f}.mid{text-anchor:middle}.end{text-anchor:end}.grid{stroke:#ecebe7}"
    ".axis{stroke:#85847d}.mark{stroke:#85847d;stroke-dasharray:2 3}"
    ".line{fill:none;stroke-width:2;stroke-linejoin:round}"
    ".s1{stroke:#2a78d6}.s2{stroke:#d9622b}.s3{stroke:#1baf7a}.s4{stroke:#8a6fd1}"
)


@dataclass(frozen=True, slots=True)
class Series:
    """One line: points in ascending x.

    Attributes:
        stepped: hold each value until the next point.
        style: number of the line's style; 0 for its place in the chart.
    """

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    stepped: bool = False
    style: int = 0


@dataclass(frozen=True, slots=True)
class Chart:
    """A line chart.

    Attributes:
        x_unit, y_unit: printed after the tick labels of an axis's last tick.
        x_log: logarithmic x axis (all x must be positive).
        x_zero: the x axis starts at 0, not at the smallest x.
        y_max: top of the y axis; from the data when absent.
        marks: (x, label) of thin vertical rules, e.g. percentiles.
        filled: shade below the lines.
    """

    title: str
    series: tuple[Series, ...]
    x_unit: str = ""
    y_unit: str = ""
    x_log: bool = False
    x_zero: bool = True
    y_max: float | None = None
    marks: tuple[tuple[float, str], ...] = ()
    filled: bool = False


@dataclass(frozen=True, slots=True)
class Scale:
    """A mapping of data to SVG coordinates, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The coordinate of ``value``, clamped to the axis."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        at = math.log(max(value, self.low)) if self.log else value
        share = (at - low) / (high - low) if high > low else 0.0
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def json(self) -> str:
        """What a script needs to map coordinates back to data."""
        return f"[{self.low:g},{self.high:g},{self.start:g},{self.end:g},{int(self.log)}]"

    def ticks(self, count: int = 5) -> list[float]:
        """Round values on the axis."""
        return log_ticks(self.low, self.high) if self.log else ticks(self.low, self.high, count)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` multiples of 1, 2, 2.5 or 5 times a power of ten within [low, high]."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten within [low, high], with their multiples of 2 and 5 over few decades."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low < 1e3 else (1,)
    return [m * 10.0**d for d in decades for m in steps if low <= m * 10.0**d <= high]


def nice_top(value: float) -> float:
    """The end of an axis that starts at 0 and must show ``value``: the next tick above it."""
    if value <= 0:
        return 1.0
    marks = ticks(0.0, value, 4)
    step = marks[1] - marks[0] if len(marks) > 1 else value
    return math.ceil(value / step - 1e-9) * step


def number(value: float) -> str:
    """A tick label: three significant digits, thousands as k, millions as M."""
    for at_least, scale, suffix in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= at_least:
            return f"{value / scale:.4g}{suffix}"
    return f"{value:.4g}"


def draw(chart: Chart) -> str:
    """The chart as one ``<svg>`` element."""
    x, y = _scales(chart)
    return (
        f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{escape(chart.title)}" '
        f'data-x="{x.json()}" data-y="{y.json()}" data-unit="{escape(chart.x_unit)}">'
        + _plot(chart, x, y)
        + "</svg>"
    )


def sheet(rows: Sequence[Sequence[Chart]], legend: Sequence[tuple[str, int]]) -> str:
    """An SVG file of charts in rows, each below its title.

    Args:
        legend: name and number of the lines that need naming, alike in all charts.
    """
    columns = max(map(len, rows))
    width, height = columns * WIDTH, _TITLE + len(rows) * (_TITLE + HEIGHT)
    body = []
    for i, (name, number_) in enumerate(legend):
        x = MARGIN[0] + 160 * i
        body.append(f'<path class="line s{number_}" d="M{x:g} 16h22"/>')
        body.append(_text("note", (x + 28, 20), name))
    for i, row in enumerate(rows):
        for j, chart in enumerate(row):
            top = _TITLE + i * (_TITLE + HEIGHT)
            body.append(f'<g transform="translate({j * WIDTH:g} {top:g})">')
            body.append(_text("title", (MARGIN[0], 18), f"{chart.title}, {chart.y_unit}"))
            body.append(f'<g transform="translate(0 {_TITLE:g})">')
            body.append(_plot(chart, *_scales(chart)) + "</g></g>")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}">\n'
        f"<style>{_STYLE}</style>\n"
        f'<rect width="{width:g}" height="{height:g}" fill="#fff"/>\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )


def _plot(chart: Chart, x: Scale, y: Scale) -> str:
    body = [*_grid(chart, x, y), *_marks(chart, x, y)]
    for index, series in enumerate(chart.series, 1):
        body.extend(_line(series, series.style or index, chart.filled, x, y))
    return "".join(body)


def _scales(chart: Chart) -> tuple[Scale, Scale]:
    left, right, top, bottom = MARGIN
    xs = [x for s in chart.series for x in s.xs]
    ys = [y for s in chart.series for y in s.ys]
    low = 0.0 if chart.x_zero and not chart.x_log else min(xs, default=0.0)
    high = max(xs, default=1.0)
    if high <= low:
        high = low * 2 if low else 1.0
    y_max = chart.y_max if chart.y_max is not None else nice_top(max(ys, default=1.0))
    return (
        Scale(low, high, left, WIDTH - right, chart.x_log),
        Scale(0.0, y_max, HEIGHT - bottom, top),
    )


def _grid(chart: Chart, x: Scale, y: Scale) -> list[str]:
    out = []
    for value in y.ticks(4):
        at = y(value)
        out.append(_rule("grid", (x.start, at), (x.end, at)))
        out.append(_text("tick end", (x.start - 7, at + 4), number(value)))
    for value in x.ticks(6):
        at = x(value)
        out.append(_rule("axis", (at, y.start), (at, y.start + 4)))
        out.append(_text("tick mid", (at, y.start + 17), number(value)))
    out.append(_rule("axis", (x.start, y.start), (x.end, y.start)))
    out.append(_text("tick end", (x.end, y.start + 31), chart.x_unit))
    return out


def _rule(cls: str, start: tuple[float, float], end: tuple[float, float]) -> str:
    (x1, y1), (x2, y2) = start, end
    return f'<line class="{cls}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(cls: str, at: tuple[float, float], text: str) -> str:
    return f'<text class="{cls}" x="{at[0]:.1f}" y="{at[1]:.1f}">{escape(text)}</text>'


def _marks(chart: Chart, x: Scale, y: Scale) -> list[str]:
    out = []
    for row, (value, label) in enumerate(chart.marks):
        at = x(value)
        cls, dx = ("note end", -4) if at > x.end - 40 else ("note", 4)
        out.append(_rule("mark", (at, y.end), (at, y.start)))
        out.append(_text(cls, (at + dx, y.start - 8 - 14 * row), label))
    return out


def _line(series: Series, index: int, filled: bool, x: Scale, y: Scale) -> list[str]:
    points = _thinned([(x(a), y(b)) for a, b in zip(series.xs, series.ys, strict=True)])
    if not points:
        return []
    path = [f"M{points[0][0]:.1f} {points[0][1]:.1f}"]
    for px, py in points[1:]:
        path.append(f"H{px:.1f}V{py:.1f}" if series.stepped else f"L{px:.1f} {py:.1f}")
    line = "".join(path)
    out = []
    if filled:
        base = f"V{y.start:.1f}H{points[0][0]:.1f}Z"
        out.append(f'<path class="area s{index}" d="{line}{base}"/>')
    name = escape(series.name)
    out.append(f'<path class="line s{index}" data-name="{name}" d="{line}"/>')
    return out


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Without points that move less than a third of a unit: they cannot be seen."""
    kept = points[:1]
    for point in points[1:-1]:
        if abs(point[0] - kept[-1][0]) > 0.33 or abs(point[1] - kept[-1][1]) > 0.33:
            kept.append(point)
    return kept + points[1:][-1:]
