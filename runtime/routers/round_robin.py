"""Each instance in turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

from servesim.runtime.request import RequestSpec
from servesim.runtime.routers import ROUTERS, Snapshot


@ROUTERS.register("round_robin")
@dataclass(frozen=True)
class RoundRobin:
    """Each instance in turn, whatever its load."""

    _turn: Iterator[int] = field(default_factory=count, init=False)

    def choose(self, spec: RequestSpec, instances: Sequence[Snapshot]) -> int:
        """The instance after the last one chosen."""
        return next(self._turn) % len(instances)
