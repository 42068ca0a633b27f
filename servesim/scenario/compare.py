"""Several results side by side: the numbers a buyer or an operator chooses by."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from servesim.runtime.metrics import goodput
from servesim.scenario.run import Result


@dataclass(frozen=True, slots=True)
class Row:
    """One quantity of every result.

    Attributes:
        group: rows that belong together.
        key: its name in JSON, SI units (dollars and grams where it says so).
        title: its name on screen, with the unit that ``scale`` converts to.
        values: one a result; None where it is not known.
    """

    group: str
    key: str
    title: str
    scale: float
    values: tuple[float | None, ...]


def comparison(results: Sequence[Result]) -> list[Row]:
    """Every quantity of ``results``."""
    return [
        Row(group, key, title, scale, tuple(_known(of(result)) for result in results))
        for group, key, title, scale, of in _QUANTITIES
    ]


def _known(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _devices(result: Result) -> float:
    served = result.deployment.served
    return float(sum(one.devices for one in served))


def _offered(result: Result) -> float:
    """Requests per second between the first arrival and the last."""
    arrivals = result.records.requests.column("arrival_s")
    span = float(np.ptp(arrivals)) if len(arrivals) else 0.0
    return (len(arrivals) - 1) / span if span else math.nan


def _rate_per_device(result: Result) -> float:
    return result.metrics.output_throughput / _devices(result)


def _goodput(result: Result) -> float:
    return goodput(result.records.requests, result.scenario.slo)


def _usd_per_million_good(result: Result) -> float | None:
    """Dollars for a million output tokens of requests within the SLO, as far as these are alike."""
    cost, rate = result.cost.usd_per_million_output, result.metrics.request_throughput
    share = _goodput(result) / rate if rate else 0.0
    return cost / share if cost is not None and share else None


def _energy(attribute: str) -> Callable[[Result], float | None]:
    def of(result: Result) -> float | None:
        return None if result.energy is None else float(getattr(result.energy, attribute))

    return of


def _carbon_per_million(result: Result) -> float | None:
    carbon, energy = result.cost.carbon_g, result.energy
    if carbon is None or energy is None or not energy.output_tokens:
        return None
    return carbon / energy.output_tokens * 1e6


_Quantity = tuple[str, str, str, float, Callable[[Result], float | None]]

_QUANTITIES: tuple[_Quantity, ...] = (
    ("count", "devices", "devices", 1.0, _devices),
    ("count", "finished", "requests finished", 1.0, lambda r: float(r.metrics.finished)),
    ("count", "rejected", "requests rejected", 1.0, lambda r: float(r.metrics.rejected)),
    ("latency", "ttft_mean_s", "TTFT mean, ms", 1e3, lambda r: r.metrics.ttft.mean),
    ("latency", "ttft_p99_s", "TTFT p99, ms", 1e3, lambda r: r.metrics.ttft.p99),
    ("latency", "tpot_mean_s", "TPOT mean, ms", 1e3, lambda r: r.metrics.tpot.mean),
    ("latency", "tpot_p99_s", "TPOT p99, ms", 1e3, lambda r: r.metrics.tpot.p99),
    ("latency", "e2e_mean_s", "E2E mean, s", 1.0, lambda r: r.metrics.e2e.mean),
    ("latency", "e2e_p99_s", "E2E p99, s", 1.0, lambda r: r.metrics.e2e.p99),
    ("rate", "offered_requests_per_s", "requests/s arriving", 1.0, _offered),
    ("rate", "requests_per_s", "requests/s", 1.0, lambda r: r.metrics.request_throughput),
    ("rate", "goodput_requests_per_s", "requests/s within the SLO", 1.0, _goodput),
    ("rate", "output_tokens_per_s", "output tokens/s", 1.0, lambda r: r.metrics.output_throughput),
    ("rate", "output_tokens_per_s_per_device", "output tokens/s a device", 1.0, _rate_per_device),
    ("energy", "mean_watts", "mean power, W", 1.0, _energy("mean_watts")),
    ("energy", "joules_per_output_token", "J per output token", 1.0,
     _energy("joules_per_output_token")),
    ("energy", "joules_per_request", "J per request", 1.0, _energy("joules_per_request")),
    ("energy", "carbon_g_per_million_output", "g CO2e per million output tokens", 1.0,
     _carbon_per_million),
    ("cost", "usd_per_hour", "rent, $/h", 1.0, lambda r: r.cost.usd_per_hour),
    ("cost", "usd_per_million_input", "$ per million input tokens", 1.0,
     lambda r: r.cost.usd_per_million_input),
    ("cost", "usd_per_million_output", "$ per million output tokens", 1.0,
     lambda r: r.cost.usd_per_million_output),
    ("cost", "usd_per_million_good_output", "$ per million within the SLO", 1.0,
     _usd_per_million_good),
)  # fmt: skip
