"""What ``servesim profile`` shows: progress with the time left, then what it found."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn

from servesim.cli.render import columns, percent
from servesim.hardware.measure.check import Check
from servesim.hardware.measure.fitting import Fitted, Line
from servesim.hardware.measure.forecast import Forecast
from servesim.hardware.measure.noise import FEWEST, QUIET, Estimate
from servesim.hardware.measure.plan import Group
from servesim.hardware.measure.rounds import Progress as Measured
from servesim.hardware.measure.session import Outcome
from servesim.hardware.measure.unmeasured import Unmeasured
from servesim.hardware.shapes import count_of, shape_of

#: Seconds between two lines where there is no terminal to draw a bar on.
_LINE_S = 15.0
#: Kernels that are shown one by one.
_WORST = 5


@dataclass
class _View:
    """A bar on a terminal; a line now and then elsewhere."""

    console: Console
    bar: Progress | None = None
    task: Any = None
    shown: float = 0.0

    def measured(self, at: Measured) -> None:
        """Kernels of a round."""
        left = f"{at.left_s / 60:.0f} min left" if at.left_s > 90 else f"{at.left_s:.0f} s left"
        text = f"round {at.round}: {at.done:,}/{at.total:,} kernels, {left}"
        self._show(f"{text}  {at.family}", at.done, at.total)

    def fitting(self, what: str) -> None:
        """Forms being fitted."""
        self._show(f"fitting {what}", None, None)

    def _show(self, text: str, done: int | None, total: int | None) -> None:
        if self.bar is not None:
            self.bar.update(self.task, completed=done or 0, total=total, text=text)
        elif (now := time.monotonic()) - self.shown >= _LINE_S:
            self.shown = now
            self.console.print(text, highlight=False)


@contextmanager
def profile_bar(console: Console) -> Iterator[_View]:
    """Something to tell the progress to."""
    if not console.is_terminal:
        yield _View(console)
        return
    with Progress(
        TextColumn("measuring"),
        BarColumn(bar_width=32, complete_style="blue", finished_style="blue", pulse_style="blue"),
        TextColumn("{task.fields[text]}", style="dim"),
        console=console,
        transient=True,
    ) as bar:
        yield _View(console, bar, bar.add_task("", total=None, text=""))


def show_outcome(console: Console, outcome: Outcome, fitted: Fitted, path: Path) -> None:
    """What was measured, how noisy it was, how well the fits predict, and where the file is."""
    _show_peaks(console, outcome)
    _show_kernels(console, outcome)
    _show_lines(console, fitted.errors, "held-out kernels")
    _show_unmeasured(console, outcome.unmeasured)
    if fitted.failure:
        console.print(f"no form was fitted: {escape(fitted.failure)}", highlight=False)
    if outcome.missing:
        hint = "the same command goes on"
        console.print(f"{outcome.missing} kernels were not reached; {hint}")
    if outcome.interrupted:
        console.print("interrupted; the same command goes on")
    console.print(f"device file: {path}", soft_wrap=True, highlight=False)


def show_check(console: Console, check: Check, path: Path) -> None:
    """How far the device file is off today, and where most."""
    for difference in check.differences:
        console.print(f"not comparable as such: {escape(difference)}", highlight=False)
    _show_lines(console, [check.line], "kernels")
    table = columns("furthest off", "file", "now", "off")
    for work, told, found in check.kernels[:_WORST]:
        name = f"{work.family} {shape_of(work)}, {count_of(work):g}"
        table.add_row(name, micros(told), micros(found), f"{told / found - 1:+.1%}")
    console.print(table)
    _show_unmeasured(console, check.unmeasured)
    console.print(f"device file: {path}", soft_wrap=True, highlight=False)


def show_plan(
    console: Console,
    kinds: Sequence[Forecast],
    lacking: Sequence[Unmeasured],
    kept: Sequence[Group],
    seconds: float,
) -> None:
    """What would be measured, how long that takes, and what is left out."""
    table = columns("planned", "operators", "kernels", f"{FEWEST} rounds")
    for kind in kinds:
        table.add_row(
            kind.kind, f"{kind.operators:,}", f"{kind.kernels:,}", f"{kind.seconds:.0f} s"
        )
    whole = sum(kind.seconds for kind in kinds)
    table.add_row("all", "", f"{sum(kind.kernels for kind in kinds):,}", f"{whole:.0f} s")
    console.print(table)
    if whole > seconds:
        kernels = sum(len(group.works) for group in kept)
        console.print(f"in {seconds:.0f} s: every second size left out, {kernels:,} kernels kept")
    _show_unmeasured(console, lacking)


def _show_unmeasured(console: Console, lacking: Sequence[Unmeasured]) -> None:
    for part in lacking:
        what = f"{part.kind} ({', '.join(part.shapes)}; {part.kernels:,} kernels)"
        console.print(f"not measured: {escape(what)}: {escape(part.why)}", highlight=False)


def _show_peaks(console: Console, outcome: Outcome) -> None:
    for probe, found in outcome.peaks.items():
        if probe.what == "launch":
            text = f"empty kernel {found.seconds * 1e6:.2f} µs"
        elif probe.what == "arithmetic":
            text = f"product of {probe.operand}: {probe.amount / found.seconds / 1e9:,.0f} GFLOP/s"
        else:
            size = probe.operand / 1e6
            text = f"{probe.what} of {size:,.1f} MB: {probe.amount / found.seconds / 1e9:,.1f} GB/s"
        console.print(text, highlight=False)
    if outcome.draw:
        d = outcome.draw
        console.print(f"power: {d.idle:.0f} W idle, {d.busy:.0f} W busy, limit {d.limit:.0f} W")


def _show_kernels(console: Console, outcome: Outcome) -> None:
    over = f"over {QUIET:.0%}"
    table = columns("measured", "kernels", "rounds", "median noise", "p90 noise", over)
    families: dict[str, list[Estimate]] = {}
    for work, found in outcome.kernels.values():
        families.setdefault(work.family, []).append(found)
    for family, found_all in sorted(families.items()):
        noises = [found.noise for found in found_all]
        loud = sum(noise > QUIET for noise in noises)
        rounds = median(found.rounds for found in found_all)
        middle, p90 = np.quantile(noises, (0.5, 0.9))
        shares = percent(middle), percent(p90)
        table.add_row(family, f"{len(noises):,}", f"{rounds:g}", *shares, f"{loud:,}")
    console.print(table)


def _show_lines(console: Console, lines: Sequence[Line], kernels: str) -> None:
    table = columns("predicted", "by", kernels, "median", "p90", "bias", text=2)
    for line in lines:
        shares = percent(line.median), percent(line.p90), f"{line.bias:+.1%}"
        table.add_row(line.family, line.how, f"{line.kernels:,}", *shares)
    console.print(table)


def micros(seconds: float) -> str:
    """Microseconds to three digits."""
    return f"{seconds * 1e6:,.3g} µs"
