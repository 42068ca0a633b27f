"""Few experts get most tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from servesim.errors import InputError
from servesim.graph.routing import ROUTINGS, Chances


@ROUTINGS.register("zipf")
@dataclass(frozen=True)
class Zipf:
    """The n-th most popular expert is drawn with a weight of ``n ** -exponent``.

    Attributes:
        exponent: 0 is uniform.
        correlation: the chance that an expert is as popular as its namesake one layer before; at 1
            the same rank is busiest in every layer.
        seed: of which experts are popular.

    Raises:
        InputError: a value cannot be used.
    """

    exponent: float = 1.0
    correlation: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.exponent < 0:
            raise InputError(f"exponent of zipf routing must be at least 0, not {self.exponent}")
        if not 0 <= self.correlation <= 1:
            raise InputError(f"correlation must be in [0, 1], not {self.correlation}")

    def chances(self, layers: int, experts: int, top_k: int) -> Chances:
        """Of drawing without replacement, in the mean."""
        weights = np.arange(1, experts + 1, dtype=np.float64) ** -self.exponent
        popular = drawn_without_replacement(weights / weights.sum(), top_k)
        rng = np.random.default_rng([self.seed, *b"routing"])
        rows, order = [], rng.permutation(experts)
        for layer in range(layers):
            if layer:
                moved = np.flatnonzero(rng.random(experts) >= self.correlation)
                order[moved] = order[rng.permutation(moved)]
            rows.append(popular[order])
        return np.array(rows)


def drawn_without_replacement(weights: npt.NDArray[np.float64], count: int) -> Chances:
    """The chance of each item to be among ``count`` drawn one after another by ``weights``.

    Each item is met at the ring of an exponential clock of its weight; the time at which ``count``
    have rung in the mean is found by bisection (Efraimidis and Spirakis, 2006, draw in this way).
    """
    if count >= len(weights):
        return np.ones(len(weights))
    low, high = 0.0, 1.0
    while -np.expm1(-weights * high).sum() < count:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        enough = -np.expm1(-weights * middle).sum() >= count
        low, high = (low, middle) if enough else (middle, high)
    found = -np.expm1(-weights * high)
    return np.asarray(found * (count / found.sum()))
