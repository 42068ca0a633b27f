"""How many tokens the busiest rank gets of a step, from how experts are chosen and placed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: Points at which the distribution of the largest of several loads is evaluated, and how far out
#: in standard deviations.
_POINTS, _REACH = 65, 5.0


@dataclass(frozen=True)
class ExpertLoad:
    """The chances of the experts of some layers, by the rank that holds them.

    Attributes:
        chosen: for each layer, each rank and each expert on it, the chance that a token goes to
            it. Replicas share the chance of their expert; all chances of a layer add up to top_k.
    """

    chosen: tuple[tuple[tuple[float, ...], ...], ...]

    @cached_property
    def _array(self) -> Floats:
        """(layers, ranks, experts of a rank); equal layers once, as ``_weights`` says."""
        return np.array(list(dict.fromkeys(self.chosen)), dtype=np.float64)

    @cached_property
    def _weights(self) -> Floats:
        """The share of layers that each row of ``_array`` stands for."""
        kinds = dict.fromkeys(self.chosen, 0)
        for layer in self.chosen:
            kinds[layer] += 1
        return np.array(list(kinds.values()), dtype=np.float64) / len(self.chosen)

    def pairs(self, tokens: int) -> float:
        """Expected (token, expert) pairs of the busiest rank, the mean over layers.

        A rank's pairs are a sum over many independent tokens, so taken as normally distributed;
        the largest of the ranks' is integrated numerically. With one rank it is exact.
        """
        mean = tokens * self._array.sum(axis=2)
        if mean.shape[1] == 1:
            return float(self._weights @ mean[:, 0])
        spread = np.sqrt(tokens * (self._array * (1.0 - self._array)).sum(axis=2))
        most = _expected_maximum(mean, spread)
        return float(self._weights @ np.minimum(most, tokens * self._array.shape[2]))

    def touched(self, tokens: int) -> float:
        """Expected experts that any token goes to, of the rank with the highest chances."""
        return float(self._weights @ (1.0 - (1.0 - self.busiest) ** tokens).sum(axis=1))

    @property
    def busiest(self) -> Floats:
        """(kinds of layers, experts of a rank): of the rank with the highest chances."""
        rank = self._array.sum(axis=2).argmax(axis=1)
        return np.asarray(self._array[np.arange(len(rank)), rank])

    @property
    def kinds(self) -> Floats:
        """Share of the layers that are of each kind: those of equal chances are one."""
        return self._weights

    def imbalance(self, tokens: int) -> float:
        """Pairs of the busiest rank over those of the mean one."""
        mean = tokens * float(self._weights @ self._array.sum(axis=2).mean(axis=1))
        return self.pairs(tokens) / mean if mean else 1.0


def _expected_maximum(mean: Floats, spread: Floats) -> Floats:
    """Of independent normal variables, along the last axis: ∫ 1 - Π P(X < x) dx from a low end."""
    low = (mean - _REACH * spread).max(axis=1)
    high = np.maximum((mean + _REACH * spread).max(axis=1), low + 1e-12)
    at = np.linspace(low, high, _POINTS, axis=1)
    scale = np.where(spread > 0, spread, 1e-12)
    below = _normal_below((at[:, :, None] - mean[:, None, :]) / scale[:, None, :]).prod(axis=2)
    return np.asarray(low + np.trapezoid(1.0 - below, at, axis=1))


def _normal_below(x: Floats) -> Floats:
    """The normal distribution function, within 3e-4 (Page, Applied Statistics 26, 1977)."""
    return np.asarray(0.5 * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))))
