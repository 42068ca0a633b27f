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


def kernels_alone(model: CostModel) -> bool:
    """Whether ``model`` gives the time of kernels alone, without the gap to the next one.

    A cost model says so with an attribute ``kernels_alone``; most measure or are fitted to
    kernels one after another, gaps included.
    """
    return bool(getattr(model, "kernels_alone", False))
