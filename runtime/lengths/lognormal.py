"""Many short, few long."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from servesim.errors import InputError
from servesim.runtime.lengths import LENGTHS, Tokens, require_positive


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
        require_positive("mean", self.mean)
        require_positive("low", self.low)
        if self.sigma < 0:
            raise InputError(f"sigma must not be negative, not {self.sigma}")
        if self.high is not None and self.high < self.low:
            raise InputError(f"high ({self.high}) must not be below low ({self.low})")

    def sample(self, rng: np.random.Generator, count: int) -> Tokens:
        """``count`` independent draws."""
        mu = math.log(self.mean) - self.sigma**2 / 2  # mean of a lognormal: exp(mu + sigma²/2)
        drawn = np.rint(rng.lognormal(mu, self.sigma, count))
        return np.clip(drawn, self.low, self.high).astype(np.int64)
