"""Measured against simulated: errors of the latency statistics and of every request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from servesim.errors import ServesimError
from servesim.runtime.records import Records, RequestRecords, Status
from servesim.validation.measured import MeasuredRun

Times = npt.NDArray[np.float64]

#: The statistics of a latency, by name; percentiles interpolate linearly as numpy's do.
STATISTICS: Mapping[str, Callable[[Times], float]] = {
    "mean": lambda x: float(np.mean(x)),
    "p50": lambda x: float(np.percentile(x, 50)),
    "p90": lambda x: float(np.percentile(x, 90)),
    "p95": lambda x: float(np.percentile(x, 95)),
    "p99": lambda x: float(np.percentile(x, 99)),
}


@dataclass(frozen=True, slots=True)
class Compared:
    """One number, measured and simulated (SI units)."""

    measured: float
    simulated: float

    @property
    def error(self) -> float:
        """Relative error, simulated over measured less one."""
        return self.simulated / self.measured - 1 if self.measured else float("nan")

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return {"measured": self.measured, "simulated": self.simulated, "error": self.error}


@dataclass(frozen=True)
class Comparison:
    """A measured run and its simulation.

    Attributes:
        metrics: latency (``ttft``, ``tpot``, ``e2e``) -> statistic -> numbers.
        per_request_mape: latency -> mean over requests of |relative error|.
    """

    run: str
    metrics: Mapping[str, Mapping[str, Compared]]
    per_request_mape: Mapping[str, float]
    makespan: Compared


def compare(run: MeasuredRun, records: Records) -> Comparison:
    """Statistics of ``run`` beside those of its simulation.

    Raises:
        ServesimError: a request of the run did not finish in the simulation.
    """
    measured, simulated = _measured(run), _simulated(run, records)
    metrics = {
        latency: {
            name: Compared(of(measured[latency]), of(simulated[latency]))
            for name, of in STATISTICS.items()
        }
        for latency in measured
    }
    mape = {
        latency: float(np.mean(np.abs(simulated[latency] / measured[latency] - 1)))
        for latency in measured
    }
    finished = records.requests.column("finished_s")
    start = records.requests.column("arrival_s").min()
    return Comparison(
        run.name, metrics, mape, Compared(run.makespan_s, float(finished.max() - start))
    )


def _measured(run: MeasuredRun) -> dict[str, Times]:
    several = [r for r in run.requests if r.output_tokens > 1]
    return {
        "ttft": np.array([r.ttft_s for r in run.requests]),
        "tpot": np.array([r.tpot_s for r in several]),
        "e2e": np.array([r.e2e_s for r in run.requests]),
    }


def _times(rows: RequestRecords, name: str) -> Times:
    return rows.column(name).astype(np.float64)


def _simulated(run: MeasuredRun, records: Records) -> dict[str, Times]:
    rows = records.requests
    if rows.count(Status.FINISHED) != len(run.requests):
        lost = len(run.requests) - rows.count(Status.FINISHED)
        reasons = "; ".join(sorted(set(rows.reasons.values()))) or "no reason given"
        raise ServesimError(f"{lost} requests of {run.name} did not finish: {reasons}")
    order = np.argsort(rows.column("id"), kind="stable")
    wanted = np.argsort([r.id for r in run.requests], kind="stable")
    row_of = np.empty(len(order), dtype=np.int64)
    row_of[wanted] = order
    start = _times(rows, "queued_s" if run.clock == "engine" else "arrival_s")[row_of]
    first = _times(rows, "first_token_s")[row_of]
    end = _times(rows, "finished_s")[row_of]
    outputs = rows.column("output_tokens")[row_of]
    several = outputs > 1
    return {
        "ttft": first - start,
        "tpot": ((end - first) / np.maximum(outputs - 1, 1))[several],
        "e2e": end - start,
    }
