"""Users who wait for an answer before they ask again."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from servesim.errors import InputError
from servesim.runtime.bodies import Bodies, RequestBodies
from servesim.runtime.lengths import require_positive
from servesim.runtime.request import RequestSpec
from servesim.runtime.workloads import WORKLOADS


@WORKLOADS.register("closed_loop")
@dataclass(frozen=True, kw_only=True)
class ClosedLoop(Bodies):
    """``concurrency`` requests in the system at all times, until there are no more.

    Attributes:
        concurrency: requests at the start, and thereafter one for each answered.
        think_time_s: from an answer to the request that follows it.
    """

    concurrency: int = 16
    think_time_s: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("concurrency", self.concurrency)
        if self.think_time_s < 0:
            raise InputError(f"think_time_s must not be negative, not {self.think_time_s}")

    def source(self) -> ClosedLoopSource:
        """The requests as answers allow them."""
        return ClosedLoopSource(self.bodies(), self.concurrency, self.think_time_s)


class ClosedLoopSource:
    """Lets a request follow each that finished."""

    reactive = True

    def __init__(self, bodies: RequestBodies, concurrency: int, think_time_s: float) -> None:
        self.total = len(bodies)
        self._bodies = bodies
        self._think_time_s = think_time_s
        self._due = [0.0] * min(concurrency, len(bodies))  # a heap of arrival times
        self._given = 0

    def next_s(self) -> float | None:
        """The earliest arrival due, if any request is left."""
        return self._due[0] if self._due and self._given < self.total else None

    def take(self) -> RequestSpec:
        """The next request."""
        spec = self._bodies.request(self._given, heapq.heappop(self._due))
        self._given += 1
        return spec

    def finished(self, spec: RequestSpec, now: float) -> None:
        """Another follows after the think time."""
        heapq.heappush(self._due, now + self._think_time_s)
