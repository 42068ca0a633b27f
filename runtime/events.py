"""The order of events: by time, then by kind, then by the order in which they were announced."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from enum import IntEnum

#: What happens at an event, given the time.
Action = Callable[[float], None]


class Order(IntEnum):
    """What comes first of all that happens at one time."""

    STEP_ENDS = 0
    TRANSFER = 1
    CHANGE = 2  # an instance fails, recovers, starts or stops
    ARRIVAL = 3
    STEP_STARTS = 4


_NEVER = (math.inf, Order.ARRIVAL)


class EventQueue:
    """Events to come.

    Attributes:
        live: how many of them can move a request on; the others only look at what there is.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, Order, int, bool, Action]] = []  # (..., ticket, live, what)
        self._tickets = 0
        self.live = 0

    def push(self, time: float, order: Order, action: Action, *, live: bool = True) -> None:
        """Announce that ``action`` happens at ``time``."""
        heapq.heappush(self._heap, (time, order, self._tickets, live, action))
        self._tickets += 1
        self.live += live

    @property
    def next(self) -> tuple[float, Order]:
        """Time and kind of the next event; infinity without any."""
        return self._heap[0][:2] if self._heap else _NEVER

    def happen(self) -> float:
        """Let the next event happen; returns its time."""
        time, _, _, live, action = heapq.heappop(self._heap)
        self.live -= live
        action(time)
        return time
