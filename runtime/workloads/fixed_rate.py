"""Requests at equal intervals."""

from __future__ import annotations

from dataclasses import dataclass

from servesim.runtime.bodies import Bodies
from servesim.runtime.lengths import require_positive
from servesim.runtime.source import OpenSource
from servesim.runtime.workloads import WORKLOADS


@WORKLOADS.register("fixed_rate")
@dataclass(frozen=True, kw_only=True)
class FixedRate(Bodies):
    """One request every 1/``rate`` seconds, the first at 0."""

    rate: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("rate", self.rate)

    def source(self) -> OpenSource:
        """The requests in order of arrival."""
        bodies = self.bodies()
        return OpenSource(
            (bodies.request(i, i / self.rate) for i in range(len(bodies))), len(bodies)
        )
