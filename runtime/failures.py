"""When instances fail and how long they are down."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from servesim.errors import InputError
from servesim.runtime.streams import stream


@dataclass(frozen=True, slots=True)
class Outage:
    """One failure that is sure to come.

    Attributes:
        instance: name of the instance.
        at_s: when it fails.
        down_s: how long until it serves again, its caches empty; None for ever.

    Raises:
        InputError: a time that is not one.
    """

    instance: str
    at_s: float
    down_s: float | None = None

    def __post_init__(self) -> None:
        if not (0 <= self.at_s < math.inf):
            raise InputError(f"at_s of a failure must be a time from 0 on, not {self.at_s}")
        if self.down_s is not None and not self.down_s >= 0:
            raise InputError(f"down_s of a failure must not be negative, not {self.down_s}")


@dataclass(frozen=True)
class Failures:
    """Failures of instances, given or drawn.

    Attributes:
        outages: those that are sure to come.
        mtbf_s: mean time that an instance serves before it fails, exponentially distributed; None
            for never.
        mttr_s: mean time until it serves again, exponentially distributed too.
        seed: fixes everything random.

    Raises:
        InputError: a time that is not positive.
    """

    outages: tuple[Outage, ...] = ()
    mtbf_s: float | None = None
    mttr_s: float = 60.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("mtbf_s", "mttr_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"{name} must be positive, not {value}")

    @property
    def expected(self) -> bool:
        """Whether any instance can fail."""
        return bool(self.outages) or self.mtbf_s is not None

    def drawn(self, name: str) -> Iterator[tuple[float, float]]:
        """Seconds that instance ``name`` serves, then is down, again and again."""
        if self.mtbf_s is None:
            return
        rng = stream(self.seed, f"failures of {name}")
        while True:
            yield float(rng.exponential(self.mtbf_s)), float(rng.exponential(self.mttr_s))
