"""The instance with the fewest requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from servesim.runtime.request import RequestSpec
from servesim.runtime.routers import ROUTERS, Snapshot


@ROUTERS.register("least_loaded")
@dataclass(frozen=True)
class LeastLoaded:
    """The fewest requests running and waiting; the first of equals."""

    def choose(self, spec: RequestSpec, instances: Sequence[Snapshot]) -> int:
        """The instance with the fewest requests."""
        return min(range(len(instances)), key=lambda i: instances[i].load)
