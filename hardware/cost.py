"""What a kernel costs and how well that is known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from servesim.errors import InputError
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


def usable(found: object, device: str, work: Work) -> Cost:
    """``found``, which the cost model of ``device`` says ``work`` costs, if it is a cost.

    Raises:
        InputError: it is none, takes a time that cannot be, or has no known source.
    """
    if not isinstance(found, Cost):
        raise InputError(f"{device}: {work} costs {found!r}, which is no Cost")
    if not isinstance(found.source, Source):
        known = ", ".join(f"Source.{source.name}" for source in Source)
        raise InputError(
            f"{device}: {work} has the unknown source {found.source!r} (known: {known})"
        )
    if not 0.0 <= found.seconds < math.inf:
        raise InputError(f"{device}: {work} takes {found.seconds} s")
    return found


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
