"""Clients that give up: requests that are cancelled unless they are answered by then."""

from __future__ import annotations

import heapq
import math

from servesim.runtime.request import RequestSpec
from servesim.runtime.sequence import Sequence


class Cancellations:
    """The sequences of an engine that will be cancelled unless they are finished, by time."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Sequence]] = []

    def __bool__(self) -> bool:
        return bool(self._heap)

    def expect(self, seq: Sequence) -> None:
        """Learn of a sequence that has come."""
        until = deadline(seq.spec)
        if until < math.inf:
            heapq.heappush(self._heap, (until, seq.index, seq))

    def due(self, now: float) -> bool:
        """Whether any that is not finished is to be cancelled by ``now``."""
        heap = self._heap
        while heap and heap[0][2].finished:
            heapq.heappop(heap)
        return bool(heap) and heap[0][0] <= now

    def take(self, now: float) -> list[Sequence]:
        """Those to cancel by ``now``, which nobody need expect any more."""
        found = []
        while self.due(now):
            found.append(heapq.heappop(self._heap)[2])
        return found

    def clear(self) -> None:
        """Forget all."""
        self._heap.clear()


def deadline(spec: RequestSpec) -> float:
    """When ``spec`` is cancelled unless it is answered before; infinity if never."""
    return math.inf if spec.cancel_after_s is None else spec.arrival_s + spec.cancel_after_s


def reason(spec: RequestSpec) -> str:
    """What is told of a request that was cancelled."""
    return f"its client gave up after {spec.cancel_after_s:g} s"
