"""What it would cost to compute again, how often it is used, and how long ago."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from servesim.runtime.tiers.eviction import EVICTIONS
from servesim.runtime.tiers.eviction.ranked import Ranked


@dataclass(slots=True)
class _Entry:
    cost: float
    uses: int = 1


@EVICTIONS.register("cost_aware")
@dataclass(frozen=True)
class CostAware:
    """GreedyDual with frequency (Cherkasova, "Improving WWW proxies performance with
    Greedy-Dual-Size-Frequency caching policy", HPL-98-69): the value of an entry is its uses times
    the seconds to compute it again, on top of the value of the last one given up, so that what is
    no longer used grows old. Entries are of one size."""

    _ranked: Ranked = field(default_factory=Ranked, init=False)
    _entries: dict[Hashable, _Entry] = field(default_factory=dict, init=False)
    _age: list[float] = field(default_factory=lambda: [0.0], init=False)

    def added(self, key: Hashable, cost: float) -> None:
        """Worth its cost."""
        self._entries[key] = _Entry(cost)
        self._value(key)

    def used(self, key: Hashable) -> None:
        """Worth its cost once more."""
        self._entries[key].uses += 1
        self._value(key)

    def removed(self, key: Hashable) -> None:
        """Forget it."""
        del self._entries[key]
        self._ranked.remove(key)

    def victim(self) -> Hashable:
        """The one of least value."""
        value, key = self._ranked.lowest()
        self._age[0] = value
        return key

    def _value(self, key: Hashable) -> None:
        entry = self._entries[key]
        self._ranked.rank(key, self._age[0] + entry.uses * entry.cost)
