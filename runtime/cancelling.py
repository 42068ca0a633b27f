"""Clients that give up: requests that are cancelled unless they are answered by then."""

from __future__ import annotations

import heapq

from servesim.runtime.request import RequestSpec
from servesim.runtime.sequence import Sequence


class Cancellations:
    """The sequences of an engine that will be given up, by time."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Sequence]] = []

    def expect(self, seq: Sequence) -> None:
        """Learn of a sequence that has come."""
        after_s = seq.spec.cancel_after_s
        if after_s is not None:
            heapq.heappush(self._heap, (seq.spec.arrival_s + after_s, seq.index, seq))

    def due(self, now: float) -> bool:
        """Whether any that is not finished is given up until ``now``."""
        heap = self._heap
        while heap and heap[0][2].finished:
            heapq.heappop(heap)
        return bool(heap) and heap[0][0] <= now

    def take(self, now: float) -> list[Sequence]:
        """Those given up until ``now``, which nobody need expect any more."""
        found = []
        while self.due(now):
            found.append(heapq.heappop(self._heap)[2])
        return found

    def clear(self) -> None:
        """Forget all."""
        self._heap.clear()


def given_up(spec: RequestSpec, now: float) -> bool:
    """Whether nobody waits for the answer to ``spec`` any more."""
    return spec.cancel_after_s is not None and spec.arrival_s + spec.cancel_after_s < now


def reason(spec: RequestSpec) -> str:
    """What is told of a request that was given up."""
    return f"its client gave up after {spec.cancel_after_s:g} s"
