"""A page of text, tables and charts in one HTML file that needs nothing from anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from servesim.charts import Chart, draw

_ASSETS = Path(__file__).parent / "assets"


def page(title: str, subtitle: str, sections: Iterable[str], footer: str = "") -> str:
    """A whole HTML document."""
    style = (_ASSETS / "report.css").read_text(encoding="utf-8")
    script = (_ASSETS / "report.js").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style></head>\n<body><main>\n"
        f"<header><h1>{escape(title)}</h1><p>{escape(subtitle)}</p></header>\n"
        + "\n".join(sections)
        + f"\n<footer>{escape(footer)}</footer></main>\n<script>\n{script}</script></body></html>\n"
    )


def section(title: str, *parts: str, note: str = "") -> str:
    """A headed part of the page."""
    lead = f'<p class="lead">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{lead}{''.join(parts)}</section>"


def tiles(values: Sequence[tuple[str, str, str]]) -> str:
    """Headline numbers: (label, value, remark)."""
    cells = (
        f'<div class="tile"><span>{escape(label)}</span><b>{escape(value)}</b>'
        f"<small>{escape(remark)}</small></div>"
        for label, value, remark in values
    )
    return f'<div class="tiles">{"".join(cells)}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], text: int = 1) -> str:
    """A table whose first ``text`` columns are text and whose others are numbers."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return f'<div class="scroll"><table class="text{text}"><tr>{top}</tr>{body}</table></div>'


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """A list of names and values."""
    body = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in rows)
    return f"<dl>{body}</dl>"


def charts(many: Iterable[Chart]) -> str:
    """Charts side by side, with a legend each where there are several lines."""
    return f'<div class="charts">{"".join(_figure(chart) for chart in many)}</div>'


def shares(parts: Sequence[tuple[str, float]]) -> str:
    """One bar divided into shares of 1, with a legend."""
    bar = "".join(
        f'<i class="b{i}" style="width:{share:.4%}"></i>' for i, (_, share) in enumerate(parts, 1)
    )
    legend = "".join(
        f'<li><i class="b{i}"></i>{escape(name)} {share:.1%}</li>'
        for i, (name, share) in enumerate(parts, 1)
    )
    return f'<div class="bar">{bar}</div><ul class="legend">{legend}</ul>'


def note(text: str) -> str:
    """A line that must not be overlooked."""
    return f'<p class="note">{escape(text)}</p>'


def _figure(chart: Chart) -> str:
    unit = f" <small>{escape(chart.y_unit)}</small>" if chart.y_unit else ""
    legend = ""
    if len(chart.series) > 1:
        items = (
            f'<li><i class="b{i}"></i>{escape(s.name)}</li>' for i, s in enumerate(chart.series, 1)
        )
        legend = f'<ul class="legend">{"".join(items)}</ul>'
    caption = f"<figcaption>{escape(chart.title)}{unit}</figcaption>"
    return f"<figure>{caption}{legend}{draw(chart)}</figure>"
