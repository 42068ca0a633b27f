"""Every request alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from servesim.runtime.lengths import LENGTHS, Tokens, require_count


@LENGTHS.register("fixed")
@dataclass(frozen=True)
class Fixed:
    """Always ``tokens``."""

    tokens: int

    def __post_init__(self) -> None:
        require_count("tokens", self.tokens)

    def sample(self, rng: np.random.Generator, count: int) -> Tokens:
        """``count`` times the same."""
        return np.full(count, self.tokens, dtype=np.int64)
