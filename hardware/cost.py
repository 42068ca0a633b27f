"""What a kernel costs and how well that is known."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from servesim.graph.work import Work

#: Seconds from one kernel's end to the next one's start, in a CUDA graph and launched into a
#: stream: kernels of 2.9 µs took 3.4 µs and 3.8 µs each (A. Gray, Getting Started with CUDA Graphs,
#: NVIDIA technical blog, 2019). Missing where costs are those of kernels alone.
GRAPH_GAP_S, STREAM_GAP_S = 0.5e-6, 0.9e-6


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
