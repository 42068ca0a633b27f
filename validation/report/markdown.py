"""Tables and numbers as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from servesim.validation.compare import STATISTICS, Compared
from servesim.validation.run import RunResult

_TITLES = {"ttft": "TTFT", "tpot": "TPOT", "e2e": "E2E"}


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], text: int = 1) -> str:
    """A table whose first ``text`` columns are text and whose others are numbers."""
    rule = ["---" if i < text else "---:" for i in range(len(heads))]
    lines = [heads, rule, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def folded(title: str, text: str) -> str:
    """``text`` behind a line that opens it."""
    return f"<details>\n<summary>{title}</summary>\n\n{text}\n\n</details>"


def signed(error: float, aim: float | None = None) -> str:
    """An error in percent; marked where it is beyond its aim."""
    missed = aim is not None and not abs(error) <= aim
    return f"{100 * error:+.2f} %" + (" (missed)" if missed else "")


def percent(share: float, aim: float | None = None) -> str:
    """A share in percent; marked where it is beyond its aim."""
    missed = aim is not None and not share <= aim
    return f"{100 * share:.2f} %" + (" (missed)" if missed else "")


def run_table(result: RunResult, aims: dict[str, float], percentile_aim: float | None) -> str:
    """Measured, simulated and error of every latency of a run.

    Args:
        aims: largest error of a mean that is aimed at, by latency.
        percentile_aim: the same for every percentile.
    """
    rows = []
    for latency, statistics in result.comparison.metrics.items():
        scale, unit = (1e3, "ms") if statistics["mean"].measured < 1 else (1.0, "s")
        for what in ("measured", "simulated"):
            values = [f"{getattr(c, what) * scale:.4g}" for c in statistics.values()]
            rows.append([f"{_TITLES[latency]}, {unit}", what, *values])
        rows.append(["", "error", *_errors(statistics, aims.get(latency), percentile_aim)])
    return table(["", "", *STATISTICS], rows, text=2)


def run_summary(result: RunResult, e2e_aim: float | None = None) -> str:
    """Errors of single requests, time taken and what step times rest on, in a sentence."""
    mape = result.comparison.per_request_mape
    seconds = result.served.step_model.source_seconds()
    total = sum(seconds.values()) or 1.0
    sources = ", ".join(f"{100 * s / total:.0f} % {k.value}" for k, s in seconds.items() if s)
    return (
        f"Per request, mean absolute error: TTFT {percent(mape['ttft'])}, TPOT "
        f"{percent(mape['tpot'])}, E2E {percent(mape['e2e'], e2e_aim)}. Makespan "
        f"{signed(result.comparison.makespan.error)}. {len(result.run.requests):,} requests. "
        f"Step times: {sources}."
    )


def _errors(statistics: object, mean: float | None, percentile: float | None) -> list[str]:
    assert isinstance(statistics, dict)
    cells: dict[str, Compared] = statistics
    return [signed(c.error, mean if name == "mean" else percentile) for name, c in cells.items()]
