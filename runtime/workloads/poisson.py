"""Requests at random times with a given mean rate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from servesim.runtime.bodies import Bodies
from servesim.runtime.lengths import require_positive
from servesim.runtime.limited import limited
from servesim.runtime.source import OpenSource, Source
from servesim.runtime.streams import stream
from servesim.runtime.workloads import WORKLOADS


@WORKLOADS.register("poisson")
@dataclass(frozen=True, kw_only=True)
class Poisson(Bodies):
    """Independent gaps between arrivals; a Poisson process unless ``burstiness`` says otherwise.

    Attributes:
        rate: requests per second in the mean.
        burstiness: shape of the gamma distribution of the gaps, as in vLLM's benchmark client:
            1 is Poisson, less comes in bursts, more is steadier.
        max_concurrency: requests that may be unfinished at a time; the client holds others back.
    """

    rate: float = 1.0
    burstiness: float = 1.0
    max_concurrency: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("rate", self.rate)
        require_positive("burstiness", self.burstiness)
        if self.max_concurrency is not None:
            require_positive("max_concurrency", self.max_concurrency)

    def source(self) -> Source:
        """The requests in order of arrival."""
        bodies = self.bodies()
        scale = 1 / (self.rate * self.burstiness)
        gaps = stream(self.seed, "arrivals").gamma(self.burstiness, scale, len(bodies))
        times = np.cumsum(gaps)
        requests = (bodies.request(i, float(times[i])) for i in range(len(bodies)))
        return limited(OpenSource(requests, len(bodies)), self.max_concurrency)
