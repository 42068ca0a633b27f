"""Charts: round ticks, coordinates within the plot, well-formed SVG."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servesim.charts import Chart, Scale, Series, draw, log_ticks, nice_top, sheet, ticks


def test_ticks_are_round_multiples() -> None:
    assert ticks(0, 4, 4) == [0, 1, 2, 3, 4]
    assert ticks(0, 1, 4) == [0, 0.25, 0.5, 0.75, 1.0]
    assert ticks(13, 57, 5) == [20, 30, 40, 50]


def test_logarithmic_ticks() -> None:
    assert log_ticks(3, 60) == [5, 10, 20, 50]
    assert log_ticks(1, 1e4) == [1, 10, 100, 1000, 10000]


@given(st.floats(1e-6, 1e9))
def test_the_axis_shows_the_largest_value(value: float) -> None:
    top = nice_top(value)
    assert value <= top * (1 + 1e-9) <= 2.01 * value


@pytest.mark.parametrize("log", [False, True])
def test_scale_maps_ends_to_ends_and_keeps_order(log: bool) -> None:
    scale = Scale(1.0, 100.0, 50.0, 450.0, log)
    assert (scale(1.0), scale(100.0)) == (50.0, 450.0)
    assert scale(10.0) == pytest.approx(250.0 if log else 50 + 400 * 9 / 99)
    assert scale(1e6) == 450.0


def _draw(chart: Chart) -> ET.Element:
    return ET.fromstring(draw(chart))


def test_a_stepped_line_holds_each_value_until_the_next() -> None:
    svg = _draw(Chart("requests", (Series("running", [0, 1, 2], [0, 5, 5], stepped=True),)))
    (line,) = svg.iter("path")
    assert line.get("d", "").count("H") == 2
    assert "L" not in line.get("d", "")


def test_text_is_escaped_and_empty_charts_draw() -> None:
    svg = _draw(Chart("a < b & c", (Series('"x"', [], []),), x_unit="<s>"))
    assert svg.get("aria-label") == "a < b & c"
    assert not list(svg.iter("path"))


def test_points_that_cannot_be_seen_apart_are_left_out() -> None:
    many = [i / 1e5 for i in range(100_000)]
    (line,) = _draw(Chart("cdf", (Series("share", many, many),))).iter("path")
    assert len(line.get("d", "")) < 40_000


def test_a_sheet_is_a_file_of_its_own_with_every_chart_once() -> None:
    charts = [
        Chart(f"chart {i}", (Series("a & b", [0, 1], [0, 1], style=2),), y_unit="share")
        for i in range(3)
    ]
    text = sheet([charts[:2], charts[2:]], [("a & b", 2)])
    svg = ET.fromstring(text)
    space = "{http://www.w3.org/2000/svg}"
    titles = [t.text for t in svg.iter(f"{space}text") if t.get("class") == "title"]
    assert titles == ["chart 0, share", "chart 1, share", "chart 2, share"]
    lines = [p for p in svg.iter(f"{space}path") if p.get("class") == "line s2"]
    assert len(lines) == 3 + 1  # and the legend's
    assert sheet([charts[:2], charts[2:]], [("a & b", 2)]) == text
