"""Progress bars, on terminals only."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskProgressColumn, TextColumn

from servesim.runtime.cluster import Progress as Callback

if TYPE_CHECKING:
    from servesim.runtime.datasets.fetch import Progress as Bytes

#: Seconds between two updates of the bar.
_REFRESH_S = 0.05


@contextmanager
def progress_bar(console: Console) -> Iterator[Callback | None]:
    """Something to call as requests finish; None where nobody could see a bar."""
    if not console.is_terminal:
        yield None
        return
    with Progress(
        TextColumn("simulating"),
        BarColumn(bar_width=32, complete_style="blue", finished_style="blue", pulse_style="blue"),
        TaskProgressColumn(),
        TextColumn("{task.fields[requests]} requests  {task.fields[simulated]:.1f} s", style="dim"),
        console=console,
        transient=True,
    ) as bar:
        task = bar.add_task("", total=None, requests="0", simulated=0.0)
        shown = 0.0

        def show(done: int, total: int | None, simulated_s: float) -> None:
            nonlocal shown
            if (now := time.monotonic()) - shown < _REFRESH_S and done != total:
                return
            shown = now
            requests = f"{done:,}" + (f"/{total:,}" if total is not None else "")
            bar.update(task, completed=done, total=total, requests=requests, simulated=simulated_s)

        yield show


@contextmanager
def byte_bar(console: Console) -> Iterator[Bytes | None]:
    """Something to call as bytes arrive; None where nobody could see a bar."""
    if not console.is_terminal:
        yield None
        return
    with Progress(
        TextColumn("downloading"), BarColumn(bar_width=32), DownloadColumn(),
        console=console, transient=True,
    ) as bar:  # fmt: skip
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
