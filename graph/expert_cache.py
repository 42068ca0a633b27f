"""Which experts a device holds that has room for some of each layer, and which it then misses.

Popularity is stationary (``graph/routing``) and tokens choose independently of each other, so what
a cache holds has a closed form that knows neither the history nor the sizes of the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from servesim.errors import UnknownNameError

Floats = npt.NDArray[np.float64]

_HALVINGS = 100


@dataclass(frozen=True, slots=True)
class Misses:
    """What the experts of one layer that are not on the device come to in a step; expected values.

    Attributes:
        touched: experts that a token goes to, on the device or not.
        missed: those of them that are not.
        pairs: (token, expert) pairs of the missed.
        any: chance that one is missed at all.
    """

    touched: float
    missed: float
    pairs: float
    any: float


@dataclass(frozen=True)
class ExpertCache:
    """Slots for some experts of each of a number of layers.

    Attributes:
        chances: (kinds of layers, experts): the chance that a token goes to the expert.
        layers: how many layers there are of each kind.
        slots: experts of each layer that fit.
        policy: which experts are kept (``POLICIES``).

    Raises:
        UnknownNameError: no such policy.
    """

    chances: Floats
    layers: Floats
    slots: int
    policy: str = "lru"

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise UnknownNameError("policy of expert slots", self.policy, POLICIES)

    @cached_property
    def resident(self) -> Floats:
        """(kinds, experts): the chance that a step finds the expert on the device."""
        return POLICIES[self.policy](self.chances, self.slots)

    def misses(self, tokens: int, late: float = 1.0) -> tuple[Misses, ...]:
        """Of a step of ``tokens``, for a layer of each kind.

        Args:
            late: chance that an expert which is missed was not fetched ahead.
        """
        touched = -np.expm1(tokens * _log_not(self.chances))
        missed = touched * (1.0 - self.resident) * late
        pairs = tokens * self.chances * (1.0 - self.resident) * late
        some = 1.0 - np.prod(1.0 - missed, axis=1)
        sums = (touched.sum(axis=1), missed.sum(axis=1), pairs.sum(axis=1), some)
        return tuple(Misses(*map(float, row)) for row in zip(*sums, strict=True))


def least_recently_used(chances: Floats, slots: int) -> Floats:
    """Experts that were chosen within the last w tokens, with w such that ``slots`` fit them.

    Che's approximation (Che, Tung, Wang: Hierarchical Web caching systems, IEEE JSAC 2002) with
    tokens for a clock: 1 - (1 - p)^w is resident, and these add up to ``slots``. In a step with
    more experts than slots the last chosen stay.
    """
    found = (chances > 0).astype(np.float64)
    full = found.sum(axis=1) > slots
    decay = _log_not(chances[full])

    def held(window: Floats) -> Floats:
        return np.asarray(-np.expm1(window[:, None] * decay))

    low, high = np.zeros(len(decay)), np.ones(len(decay))
    while (short := held(high).sum(axis=1) < slots).any():
        high = np.where(short, 2.0 * high, high)
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        enough = held(middle).sum(axis=1) >= slots
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    found[full] = held(low)
    return np.asarray(found)


def most_popular(chances: Floats, slots: int) -> Floats:
    """The ``slots`` likeliest experts of each layer."""
    found = np.zeros_like(chances)
    best = np.argsort(-chances, axis=1, kind="stable")[:, :slots]
    np.put_along_axis(found, best, 1.0, axis=1)
    return found


#: By name: chances and slots to the chance that each expert is resident. What is used least often
#: gives way only to what was used more often, so in the long run the most popular stay.
POLICIES: Mapping[str, Callable[[Floats, int], Floats]] = {
    "lru": least_recently_used,
    "lfu": most_popular,
    "static": most_popular,
}


def _log_not(chances: Floats) -> Floats:
    """log(1 - p), finite also for what every token goes to."""
    return np.asarray(np.log1p(-np.minimum(chances, 1.0 - 1e-15)))
