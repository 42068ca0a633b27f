"""Requests that wait for an instance to serve."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from servesim.runtime.events import EventQueue, Order


class Parking:
    """Rows of requests, each until it is taken or its client goes."""

    def __init__(self, events: EventQueue, leave: Callable[[int, float], object]) -> None:
        """Args:
        leave: called with a row and the time when its client goes.
        """
        self._events = events
        self._leave = leave
        self._rows: list[int] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: int, deadline: float) -> None:
        """Let a request wait until ``deadline``."""
        self._rows.append(row)
        if deadline < math.inf:
            self._events.push(deadline, Order.CHANGE, partial(self._lose, row), live=False)

    def take_all(self) -> list[int]:
        """All that wait, in order of their coming; they do not any more."""
        rows, self._rows = self._rows, []
        return rows

    def _lose(self, row: int, now: float) -> None:
        if row in self._rows:
            self._rows.remove(row)
            self._leave(row, now)
