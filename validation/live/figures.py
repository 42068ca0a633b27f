"""Measured and simulated runs as charts: latency distributions, and throughput over time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from servesim.charts import Chart, Series, sheet
from servesim.runtime.records import RequestRecords
from servesim.validation.live.compare import LiveComparison, LoadComparison
from servesim.validation.live.served import Times
from servesim.validation.run import RunResult

MEASURED, SIMULATED = 1, 2
SHARE = "share of requests"
#: Parts that a run is divided into for its throughput.
_PARTS = 40

#: First token, last token and number of tokens of each request, and when it came.
Run = tuple[Times, Times, Times, Times]


def figures(comparison: LiveComparison) -> dict[str, str]:
    """One SVG file an architecture, by name: a row of charts for each load."""
    legend = [("measured, each run", MEASURED), ("simulated, each run", SIMULATED)]
    return {
        f"{comparison.name}-{model}.svg": sheet(
            [_row(load) for load in comparison.loads if load.model == model], legend
        )
        for model in comparison.models
    }


def _row(load: LoadComparison) -> list[Chart]:
    measured = [_measured(result) for result in load.results]
    simulated = [_simulated(result.records.requests) for result in load.results]
    return [
        Chart(
            f"{load.load}: TTFT", _distributions(measured, simulated, _ttft), "s", SHARE, y_max=1
        ),
        Chart(f"{load.load}: E2E", _distributions(measured, simulated, _e2e), "s", SHARE, y_max=1),
        Chart(f"{load.load}: output", _rates(measured, simulated), "s", "tokens/s"),
    ]


def _measured(result: RunResult) -> Run:
    rows = [
        (r.first_token_s, r.finished_s, r.output_tokens, r.arrival_s) for r in result.run.requests
    ]
    return _shifted(*np.array(rows, dtype=np.float64).T)


def _simulated(rows: RequestRecords) -> Run:
    names = ("first_token_s", "finished_s", "output_tokens", "arrival_s")
    return _shifted(*(rows.column(name).astype(np.float64) for name in names))


def _shifted(first: Times, last: Times, tokens: Times, arrival: Times) -> Run:
    """Times since the first arrival."""
    start = arrival.min()
    return first - start, last - start, tokens, arrival - start


def _ttft(run: Run) -> Times:
    return run[0] - run[3]


def _e2e(run: Run) -> Times:
    return run[1] - run[3]


def _distributions(
    measured: Iterable[Run], simulated: Iterable[Run], of: Callable[[Run], Times]
) -> tuple[Series, ...]:
    def series(run: Run, name: str, style: int) -> Series:
        xs = np.sort(of(run))
        ys = np.arange(1, len(xs) + 1) / len(xs)
        return Series(name, [xs[0], *xs], [0.0, *ys], stepped=True, style=style)

    return _both(measured, simulated, series)


def _rates(measured: Sequence[Run], simulated: Sequence[Run]) -> tuple[Series, ...]:
    """Output tokens a second over the run."""
    longest = max(run[1].max() for run in (*measured, *simulated))
    edges = np.linspace(0.0, longest, _PARTS + 1)

    def series(run: Run, name: str, style: int) -> Series:
        counts, _ = np.histogram(_token_times(run), edges)
        rates = counts / np.diff(edges)
        return Series(name, [*edges], [*rates, rates[-1]], stepped=True, style=style)

    return _both(measured, simulated, series)


def _token_times(run: Run) -> Times:
    """When each token came, those of a request evenly from its first to its last."""
    first, last, tokens, _ = run
    parts = (np.linspace(a, b, int(n)) for a, b, n in zip(first, last, tokens, strict=True))
    return np.concatenate(list(parts))


def _both(
    measured: Iterable[Run], simulated: Iterable[Run], series: Callable[[Run, str, int], Series]
) -> tuple[Series, ...]:
    own = [series(run, "measured", MEASURED) for run in measured]
    return (*own, *(series(run, "simulated", SIMULATED) for run in simulated))
