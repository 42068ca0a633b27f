"""A weighted sample in bounded memory: the gaps between tokens, of which there are very many."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: Distinct values kept exactly; beyond, values within ``_RESOLUTION`` of each other become one.
_EXACT = 100_000
_RESOLUTION = 1e-3


class WeightedSample:
    """Positive values with whole weights, as if each value were there that many times.

    Quantiles are exact up to 100,000 distinct values; beyond, they are within 0.1% of a value, and
    the mean stays exact.
    """

    def __init__(self) -> None:
        self.values: Floats = np.empty(0)
        self.weights: Floats = np.empty(0)

    def add(self, values: npt.ArrayLike, weights: npt.ArrayLike) -> None:
        """Add values with their weights; those of weight 0 are left out."""
        new_values, new_weights = np.asarray(values, float), np.asarray(weights, float)
        present = new_weights > 0
        joined = np.concatenate([self.values, new_values[present]])
        weight = np.concatenate([self.weights, new_weights[present]])
        self.values, place = np.unique(joined, return_inverse=True)
        self.weights = np.bincount(place, weight, len(self.values)).astype(float)
        if len(self.values) > _EXACT:
            self._coarsen()

    @property
    def total(self) -> float:
        """Sum of the weights."""
        return float(self.weights.sum())

    def mean(self) -> float:
        """Weighted mean; nan for an empty sample."""
        return float(self.values @ self.weights / self.total) if len(self.values) else math.nan

    def quantile(self, q: float) -> float:
        """What ``numpy.quantile`` gives for the values repeated by weight; nan if empty."""
        if not len(self.values):
            return math.nan
        last = np.cumsum(self.weights)  # values[i] is at ranks below last[i]
        most = float(last[-1]) - 1
        rank = most * q
        below = math.floor(rank)
        low, high = (
            float(self.values[np.searchsorted(last, min(r, most), side="right")])
            for r in (below, below + 1)
        )
        return low + (high - low) * (rank - below)

    def _coarsen(self) -> None:
        bins = np.floor(np.log(self.values) / math.log1p(_RESOLUTION))
        _, place = np.unique(bins, return_inverse=True)
        weights = np.bincount(place, self.weights).astype(float)
        self.values = np.bincount(place, self.weights * self.values) / weights
        self.weights = weights
