"""The transfers that a step waits for."""

from __future__ import annotations

import math
from collections.abc import Callable


class Arrivals:
    """What a step waits for.

    Attributes:
        last_s: when the last of those known so far arrives.
        missing: how many are not known.
    """

    def __init__(self, now: float, then: Callable[[float, float], None]) -> None:
        """``then`` is told the last arrival, and the time, when there were any missing."""
        self.last_s = now
        self.missing = 0
        self._then = then

    def expect(self, arrival_s: float) -> None:
        """One more; infinity if it will be told."""
        if arrival_s < math.inf:
            self.last_s = max(self.last_s, arrival_s)
        else:
            self.missing += 1

    def arrived(self, now: float) -> None:
        """One of the missing is there."""
        self.missing -= 1
        self.last_s = max(self.last_s, now)
        if not self.missing:
            self._then(self.last_s, now)
