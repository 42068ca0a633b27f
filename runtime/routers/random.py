"""Any instance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from servesim.runtime.request import RequestSpec
from servesim.runtime.routers import ROUTERS, Snapshot
from servesim.runtime.streams import stream


@ROUTERS.register("random")
@dataclass(frozen=True)
class Random:
    """Any instance, with equal chances."""

    seed: int = 0
    _rng: np.random.Generator = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_rng", stream(self.seed, "random router"))

    def choose(self, spec: RequestSpec, instances: Sequence[Snapshot]) -> int:
        """One drawn at random."""
        return int(self._rng.integers(len(instances)))
