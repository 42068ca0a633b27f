"""Least frequently used."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from servesim.runtime.tiers.eviction import EVICTIONS
from servesim.runtime.tiers.eviction.ranked import Ranked


@EVICTIONS.register("lfu")
@dataclass(frozen=True)
class LeastFrequentlyUsed:
    """Gives up what was used least often while it was there; of equals, the least recent."""

    _ranked: Ranked = field(default_factory=Ranked, init=False)
    _uses: dict[Hashable, int] = field(default_factory=dict, init=False)

    def added(self, key: Hashable, cost: float) -> None:
        """Not used yet."""
        self._uses[key] = 0
        self._ranked.rank(key, 0)

    def used(self, key: Hashable) -> None:
        """Once more."""
        self._uses[key] += 1
        self._ranked.rank(key, self._uses[key])

    def removed(self, key: Hashable) -> None:
        """Forget it."""
        del self._uses[key]
        self._ranked.remove(key)

    def victim(self) -> Hashable:
        """The one with the fewest uses."""
        return self._ranked.lowest()[1]
