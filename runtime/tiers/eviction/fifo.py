"""First in, first out."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from servesim.runtime.tiers.eviction import EVICTIONS


@EVICTIONS.register("fifo")
@dataclass(frozen=True)
class FirstInFirstOut:
    """Gives up what came first, however much it is used."""

    _order: dict[Hashable, None] = field(default_factory=dict, init=False)

    def added(self, key: Hashable, cost: float) -> None:
        """The last in line."""
        self._order[key] = None

    def used(self, key: Hashable) -> None:
        """Nothing changes."""

    def removed(self, key: Hashable) -> None:
        """Forget it."""
        del self._order[key]

    def victim(self) -> Hashable:
        """The first in line."""
        return next(iter(self._order))
