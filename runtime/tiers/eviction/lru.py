"""Least recently used."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from servesim.runtime.tiers.eviction import EVICTIONS


@EVICTIONS.register("lru")
@dataclass(frozen=True)
class LeastRecentlyUsed:
    """Gives up what was not used for the longest time."""

    _order: dict[Hashable, None] = field(default_factory=dict, init=False)

    def added(self, key: Hashable, cost: float) -> None:
        """The most recent."""
        self._order[key] = None

    def used(self, key: Hashable) -> None:
        """The most recent again."""
        del self._order[key]
        self._order[key] = None

    def removed(self, key: Hashable) -> None:
        """Forget it."""
        del self._order[key]

    def victim(self) -> Hashable:
        """The first in order."""
        return next(iter(self._order))
