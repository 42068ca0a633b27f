"""First come, first served; the one admitted last gives way."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from servesim.runtime.schedulers import SCHEDULERS
from servesim.runtime.sequence import Sequence


@SCHEDULERS.register("fcfs")
@dataclass(frozen=True)
class FirstComeFirstServed:
    """vLLM's default: a preempted sequence returns to the front.

    Attributes:
        waiting: the queue, its front first.
    """

    waiting: deque[Sequence] = field(default_factory=deque, init=False)

    def __len__(self) -> int:
        return len(self.waiting)

    def add(self, seq: Sequence) -> None:
        """Queue at the back."""
        self.waiting.append(seq)

    def put_back(self, seq: Sequence) -> None:
        """Queue at the front."""
        self.waiting.appendleft(seq)

    def peek(self) -> Sequence:
        """The front."""
        return self.waiting[0]

    def pop(self) -> Sequence:
        """Take the front."""
        return self.waiting.popleft()

    def remove(self, seq: Sequence) -> None:
        """Take out ``seq`` wherever it is."""
        self.waiting.remove(seq)

    def victim(self, running: dict[int, Sequence]) -> Sequence:
        """The one admitted last."""
        return next(reversed(running.values()))
