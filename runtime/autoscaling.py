"""How many instances of a group serve: more when requests pile up, fewer when there are few."""

from __future__ import annotations

from dataclasses import dataclass

from servesim.errors import InputError


@dataclass(frozen=True)
class Autoscaling:
    """A target band for the requests of an instance, looked at every ``interval_s``.

    Attributes:
        min_instances: of each group that always serve; a run starts with them.
        high: requests running and waiting, a serving or starting instance, above which one more is
            started.
        low: requests an instance below which one is drained.
        start_delay_s: from the decision until a new instance serves: machine, weights, warm-up.

    Raises:
        InputError: a value cannot be used.
    """

    min_instances: int = 1
    high: float = 32.0
    low: float = 8.0
    interval_s: float = 10.0
    start_delay_s: float = 60.0

    def __post_init__(self) -> None:
        if self.min_instances < 1:
            raise InputError(f"min_instances must be at least 1, not {self.min_instances}")
        if not 0 <= self.low < self.high:
            raise InputError(f"low must be from 0 to high, not {self.low} and {self.high}")
        if not self.interval_s > 0:
            raise InputError(f"interval_s must be positive, not {self.interval_s}")
        if not self.start_delay_s >= 0:
            raise InputError(f"start_delay_s must not be negative, not {self.start_delay_s}")

    def wanted(self, serving: int, requests: int) -> int:
        """Instances to add (1), to drain (-1), or neither, given those that serve or start."""
        if serving == 0 or requests / serving > self.high:
            return 1
        if serving > self.min_instances and requests / serving < self.low:
            return -1
        return 0
