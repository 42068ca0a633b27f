"""Every length in a range equally likely."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from servesim.errors import InputError
from servesim.runtime.lengths import LENGTHS, Tokens, require_count


@LENGTHS.register("uniform")
@dataclass(frozen=True)
class Uniform:
    """From ``low`` to ``high``, both included."""

    low: int
    high: int

    def __post_init__(self) -> None:
        require_count("low", self.low)
        require_count("high", self.high)
        if self.high < self.low:
            raise InputError(f"high ({self.high}) must not be below low ({self.low})")

    def sample(self, rng: np.random.Generator, count: int) -> Tokens:
        """``count`` independent draws."""
        return rng.integers(self.low, self.high, size=count, endpoint=True)
