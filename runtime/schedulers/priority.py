"""Most urgent first (lower value), then by arrival; the least urgent gives way."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from servesim.runtime.schedulers import SCHEDULERS
from servesim.runtime.sequence import Sequence

Rank = tuple[int, float, int]


def _rank(seq: Sequence) -> Rank:
    return seq.spec.priority, seq.spec.arrival_s, seq.index


@SCHEDULERS.register("priority")
@dataclass(frozen=True)
class Priority:
    """vLLM's ``priority`` policy: smallest (priority, arrival) first."""

    _waiting: list[tuple[Rank, Sequence]] = field(default_factory=list, init=False)

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, seq: Sequence) -> None:
        """Queue by rank."""
        heapq.heappush(self._waiting, (_rank(seq), seq))

    put_back = add

    def peek(self) -> Sequence:
        """The most urgent."""
        return self._waiting[0][1]

    def pop(self) -> Sequence:
        """Take the most urgent."""
        return heapq.heappop(self._waiting)[1]

    def remove(self, seq: Sequence) -> None:
        """Take out ``seq`` wherever it is."""
        self._waiting.remove((_rank(seq), seq))
        heapq.heapify(self._waiting)

    def victim(self, running: dict[int, Sequence]) -> Sequence:
        """The least urgent, with ties broken as in the queue.

        Were they broken otherwise, two sequences could preempt each other for ever.
        """
        return max(running.values(), key=_rank)
