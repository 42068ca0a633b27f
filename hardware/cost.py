"""What a kernel costs and how well that is known."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from servesim.graph.work import Work


class Source(StrEnum):
    """How a cost was obtained, best first."""

    MEASURED = "measured"
    CALIBRATED = "calibrated"
    ANALYTICAL = "analytical"
    EXTRAPOLATED = "extrapolated"


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds a kernel takes, and where the number comes from."""

    seconds: float
    source: Source


class CostModel(Protocol):
    """Answers what work costs on one device. Pure: equal work, equal cost."""

    def cost(self, work: Work) -> Cost:
        """The cost of ``work``.

        Raises:
            UnsupportedError: this device cannot run such work.
        """
