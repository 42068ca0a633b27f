"""How quantities and tables look on a terminal; plain text when it is none."""

from __future__ import annotations

import math
from collections.abc import Iterable

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from servesim.runtime.metrics import Distribution

#: Tables are no wider than this, however wide the terminal.
MAX_WIDTH = 100
LATENCY_COLUMNS = ("mean", "p50", "p90", "p95", "p99")
LATENCIES = (
    ("ttft", "TTFT", "time to first token"),
    ("tpot", "TPOT", "time per output token"),
    ("itl", "ITL", "time between tokens"),
    ("e2e", "E2E", "end to end"),
)


def make_console() -> Console:
    """A console on standard output that leaves numbers and words uncoloured."""
    console = Console(highlight=False, markup=False)
    console.width = min(console.width, MAX_WIDTH)
    return console


def heading(console: Console, title: str, remark: str = "") -> None:
    """A section's title."""
    console.print(Text.assemble("\n", (title, "bold"), (f"  {remark}" if remark else "", "dim")))


def indented(console: Console, content: Table | Text) -> None:
    """Print two columns in from the left, as all content below a heading is."""
    console.print(Padding(content, (0, 0, 0, 2), expand=False))


def grid(rows: Iterable[tuple[str, str]]) -> Table:
    """Names and values in two columns."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for name, value in rows:
        table.add_row(name, value)
    return table


def columns(*heads: str, text: int = 1) -> Table:
    """An empty table whose first ``text`` columns are text and whose others are numbers."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for index, head in enumerate(heads):
        table.add_column(head, justify="left" if index < text else "right", no_wrap=index >= text)
    return table


def in_unit(what: Distribution) -> tuple[str, list[str]]:
    """The unit that suits a latency, and its mean and percentiles in it."""
    values = [getattr(what, name) for name in LATENCY_COLUMNS]
    seconds = not what.p50 < 1
    scale, unit = (1.0, "s") if seconds else (1e3, "ms")
    return unit, [number(value * scale) for value in values]


def number(value: float) -> str:
    """About four digits, thousands apart; a dash for what does not exist."""
    if math.isnan(value):
        return "-"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}"


def percent(share: float) -> str:
    """A share of one in percent."""
    return f"{100 * share:.1f}%"


def count(value: int, what: str) -> str:
    """``1 request``, ``1,831 steps``."""
    return f"{value:,} {what}" + ("" if value == 1 else "s")
