"""Many requests at once."""

from __future__ import annotations

from dataclasses import dataclass

from servesim.errors import InputError
from servesim.runtime.bodies import Bodies
from servesim.runtime.source import OpenSource
from servesim.runtime.workloads import WORKLOADS


@WORKLOADS.register("burst")
@dataclass(frozen=True, kw_only=True)
class Burst(Bodies):
    """Bursts of ``burst_size`` requests every ``interval_s``, the first at 0.

    Attributes:
        burst_size: requests of a burst; None for all of them in one.
        interval_s: from one burst to the next.
    """

    burst_size: int | None = None
    interval_s: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.burst_size is not None and self.burst_size < 1:
            raise InputError(f"burst_size must be at least 1, not {self.burst_size}")
        if self.interval_s < 0:
            raise InputError(f"interval_s must not be negative, not {self.interval_s}")

    def source(self) -> OpenSource:
        """The requests in order of arrival."""
        bodies = self.bodies()
        size = self.burst_size or len(bodies)
        return OpenSource(
            (bodies.request(i, i // size * self.interval_s) for i in range(len(bodies))),
            len(bodies),
        )
