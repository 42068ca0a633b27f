"""Many short, few long."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from servesim.errors import InputError
from servesim.runtime.lengths import LENGTHS, Tokens, require_count

#: Of lengths that are 22 thousand times as long, or as short, one standard deviation away.
_MOST_SIGMA = 10


@LENGTHS.register("lognormal")
@dataclass(frozen=True)
class Lognormal:
    """exp of a normal variable, with the given mean of the lengths themselves.

    Attributes:
        mean: of the lengths, before rounding and clipping.
        sigma: standard deviation of their logarithm.
        low, high: what they are clipped to; no upper limit by default.
    """

    mean: float
    sigma: float = 1.0
    low: int = 1
    high: int | None = None

    def __post_init__(self) -> None:
        require_count("mean", self.mean)
        require_count("low", self.low)
        if not 0 <= self.sigma <= _MOST_SIGMA:
            raise InputError(f"sigma must be from 0 to {_MOST_SIGMA}, not {self.sigma}")
        if self.high is not None:
            require_count("high", self.high)
            if self.high < self.low:
                raise InputError(f"high ({self.high}) must not be below low ({self.low})")

    def sample(self, rng: np.random.Generator, count: int) -> Tokens:
        """``count`` independent draws."""
        mu = math.log(self.mean) - self.sigma**2 / 2  # mean of a lognormal: exp(mu + sigma²/2)
        drawn = np.rint(rng.lognormal(mu, self.sigma, count))
        return np.clip(drawn, self.low, self.high).astype(np.int64)
