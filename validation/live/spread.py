"""One number over several equal runs, measured and simulated: its error beside its spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from servesim.validation.compare import STATISTICS
from servesim.validation.run import RunResult

LATENCIES = ("ttft", "tpot", "e2e")


@dataclass(frozen=True, slots=True)
class Repeated:
    """A number of each of several equal runs (SI units)."""

    measured: tuple[float, ...]
    simulated: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Of the measured runs."""
        return sum(self.measured) / len(self.measured)

    @property
    def error(self) -> float:
        """Relative error of the simulated mean."""
        return sum(self.simulated) / len(self.simulated) / self.mean - 1

    @property
    def spread(self) -> float:
        """Largest less smallest measurement, relative to their mean: what no simulator can know."""
        return (max(self.measured) - min(self.measured)) / self.mean

    @property
    def beyond(self) -> float:
        """By how much the error exceeds the spread; 0 if it does not."""
        return max(0.0, abs(self.error) - self.spread)


def latencies(results: Sequence[RunResult]) -> Mapping[str, Mapping[str, Repeated]]:
    """Latency -> statistic -> its values in every run."""
    metrics = [result.comparison.metrics for result in results]
    return {
        latency: {
            name: Repeated(
                tuple(m[latency][name].measured for m in metrics),
                tuple(m[latency][name].simulated for m in metrics),
            )
            for name in STATISTICS
        }
        for latency in LATENCIES
    }


def throughput(results: Sequence[RunResult]) -> Repeated:
    """Output tokens a second, from the first arrival to the last token."""
    tokens = [sum(r.output_tokens for r in result.run.requests) for result in results]
    spans = [result.comparison.makespan for result in results]
    return Repeated(
        tuple(n / span.measured for n, span in zip(tokens, spans, strict=True)),
        tuple(n / span.simulated for n, span in zip(tokens, spans, strict=True)),
    )
