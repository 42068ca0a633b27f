"""The less loaded of two at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from servesim.runtime.request import RequestSpec
from servesim.runtime.routers import ROUTERS, Snapshot
from servesim.runtime.streams import stream


@ROUTERS.register("power_of_two")
@dataclass(frozen=True)
class PowerOfTwo:
    """Two instances at random, of which the one with fewer requests.

    Nearly as even as asking all of them (Mitzenmacher, The Power of Two Choices in Randomized
    Load Balancing, 2001).
    """

    seed: int = 0
    _rng: np.random.Generator = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_rng", stream(self.seed, "power_of_two router"))

    def choose(self, spec: RequestSpec, instances: Sequence[Snapshot]) -> int:
        """The less loaded of two, the first drawn if they are equal."""
        if len(instances) == 1:
            return 0
        first, second = self._rng.choice(len(instances), size=2, replace=False)
        return int(min(first, second, key=lambda i: instances[i].load))
