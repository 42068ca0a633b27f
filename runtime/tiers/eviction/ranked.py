"""Entries by a rank that changes: a heap in which old ranks are skipped."""

from __future__ import annotations

import heapq
from collections.abc import Hashable


class Ranked:
    """The entry with the lowest rank; of equals, that ranked first."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Hashable]] = []
        self._now: dict[Hashable, tuple[float, int]] = {}
        self._tickets = 0

    def rank(self, key: Hashable, value: float) -> None:
        """Give ``key`` a rank, in place of any it has."""
        self._now[key] = value, self._tickets
        heapq.heappush(self._heap, (value, self._tickets, key))
        self._tickets += 1
        if len(self._heap) > 2 * len(self._now) + 64:
            self._heap = [(*rank, key) for key, rank in self._now.items()]
            heapq.heapify(self._heap)

    def remove(self, key: Hashable) -> None:
        """Forget ``key``."""
        del self._now[key]

    def lowest(self) -> tuple[float, Hashable]:
        """The lowest rank and whose it is."""
        while True:
            value, ticket, key = self._heap[0]
            if self._now.get(key) == (value, ticket):
                return value, key
            heapq.heappop(self._heap)
