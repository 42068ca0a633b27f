"""How long a collective among equal devices takes: measured, fitted, or from a link's data sheet.

Payloads are counted as nccl-tests counts them (see ``CollectiveWork``).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from servesim.errors import UnsupportedError
from servesim.graph.work import CollectiveWork, Work
from servesim.hardware.all_reduce import Limits, limits_of
from servesim.hardware.cost import Cost, Source
from servesim.hardware.link import Link
from servesim.hardware.tables.grid import Curve

#: Payloads that each link carries, as a multiple of the payload counted (ring algorithms, and
#: direct exchange for all_to_all): NCCL, performance notes on "bus bandwidth".
WIRE: Mapping[str, Callable[[int], float]] = {
    "all_reduce": lambda ranks: 2 * (ranks - 1) / ranks,
    "all_gather": lambda ranks: (ranks - 1) / ranks,
    "reduce_scatter": lambda ranks: (ranks - 1) / ranks,
    "all_to_all": lambda ranks: (ranks - 1) / ranks,
    "broadcast": lambda ranks: 1.0,
    "send": lambda ranks: 1.0,
}
#: Messages in a row that a ring needs; the exchange of all_to_all is one round.
STEPS: Mapping[str, Callable[[int], int]] = {
    "all_reduce": lambda ranks: 2 * (ranks - 1),
    "all_gather": lambda ranks: ranks - 1,
    "reduce_scatter": lambda ranks: ranks - 1,
    "all_to_all": lambda ranks: 1,
    "broadcast": lambda ranks: ranks - 1,
    "send": lambda ranks: 1,
}
#: What a link moves of its data-sheet bandwidth, and what starting a collective kernel costs, when
#: nothing was measured (within the range of the calibrated devices: 0.6 to 0.8, 3 to 5 µs).
EFFICIENCY, LAUNCH = 0.7, 4e-6
#: NCCL 2.2x's own figures for rings over PCIe (src/graph/tuning.cc: baseLatencies, hwLatencies and
#: the factor for LL): seconds to start, seconds a step, and the share of the bandwidth that is
#: payload. LL sends a flag with every four bytes, Simple waits for whole chunks.
NCCL_PROTOCOLS = {"LL": (6.6e-6, 1.0e-6, 0.5), "Simple": (8.4e-6, 5.7e-6, 1.0)}


class CollectiveSeconds(Protocol):
    """What is known of one operation, by ranks and payload."""

    def at(self, ranks: int, payload_bytes: float) -> float:
        """Seconds for any number of ranks of at least two."""
        ...

    def spans(self, ranks: int) -> bool:
        """Whether the ranks lie within what was measured."""
        ...

    def covers(self, ranks: int, payload_bytes: float) -> bool:
        """Whether ranks and payload do."""
        ...


_Known = TypeVar("_Known", bound=CollectiveSeconds)


@dataclass(frozen=True)
class RankCurves:
    """Seconds of one operation over its payload, by number of ranks.

    For ranks that were not measured the two nearest measured ones are continued: the latency (the
    time of the smallest payload) linearly in the ranks, the rest linearly in what each link
    carries.
    """

    operation: str
    curves: Mapping[int, Curve]

    def at(self, ranks: int, payload_bytes: float) -> float:
        """Seconds for any number of ranks of at least two."""
        if ranks in self.curves:
            return self.curves[ranks].at(payload_bytes)
        low, high = self._neighbours(ranks)
        a, b = self.curves[low], self.curves[high]
        wire = WIRE[self.operation]
        if low == high:
            return a.at(payload_bytes) * wire(ranks) / wire(low)
        latency = a.ys[0] + (ranks - low) / (high - low) * (b.ys[0] - a.ys[0])
        rest = a.at(payload_bytes) - a.ys[0], b.at(payload_bytes) - b.ys[0]
        spread = wire(high) - wire(low)
        share = (wire(ranks) - wire(low)) / spread if spread else 0.0
        return max(latency + rest[0] + share * (rest[1] - rest[0]), min(a.ys[0], b.ys[0]))

    def _neighbours(self, ranks: int) -> tuple[int, int]:
        """The measured ranks around, or nearest to, ``ranks``."""
        known = sorted(self.curves)
        i = min(max(bisect_left(known, ranks), 1), len(known) - 1)
        return known[i - 1], known[i]

    def spans(self, ranks: int) -> bool:
        """Whether the ranks lie within what was measured."""
        return min(self.curves) <= ranks <= max(self.curves)

    def covers(self, ranks: int, payload_bytes: float) -> bool:
        """Whether ranks and payload do."""
        return self.spans(ranks) and payload_bytes <= max(c.xs[-1] for c in self.curves.values())


@dataclass(frozen=True)
class CollectiveCost:
    """The cost model of a parallel group whose members share one kind of link.

    Beyond what was measured no collective is faster than the link can carry it.

    Attributes:
        link: what joins the members.
        curves: what is known by operation, and of the engine's own all-reduces (``all_reduce.py``),
            each taken for the ranks it was measured for.
        speed: bandwidth of ``link`` over that of the link the curves belong to.
        source: how good the curves are.
    """

    link: Link
    curves: Mapping[str, CollectiveSeconds] = field(default_factory=dict)
    speed: float = 1.0
    source: Source = Source.CALIBRATED

    def cost(self, work: Work) -> Cost:
        """The cost of a collective; nothing with a single rank or an empty payload.

        Raises:
            UnsupportedError: not a collective, an unknown operation, or more ranks than the link
                joins.
        """
        if not isinstance(work, CollectiveWork):
            raise UnsupportedError(f"{self.link.name}: no cost for {work.family} work")
        if work.operation not in WIRE:
            known = ", ".join(WIRE)
            raise UnsupportedError(f"unknown collective {work.operation!r} (known: {known})")
        ranks, payload = work.ranks, work.payload_bytes
        if ranks <= 1 or payload <= 0:
            return Cost(0.0, self.source)
        if self.link.devices is not None and ranks > self.link.devices:
            raise UnsupportedError(
                f"{work.operation} among {ranks} devices: {self.link.name} joins "
                f"{self.link.devices}; for more, give [hardware] a link or a topology"
            )
        curves = chosen(self.curves, work, link_limits(self.link))
        if curves is None:
            return Cost(closed_form(self.link, work.operation, ranks, payload), Source.ANALYTICAL)
        seconds = curves.at(ranks, payload / self.speed)
        if curves.covers(ranks, payload / self.speed):
            return Cost(seconds, self.source)
        carried = WIRE[work.operation](ranks) * payload / self.link.bandwidth
        return Cost(max(seconds, carried), Source.EXTRAPOLATED)


def chosen(curves: Mapping[str, _Known], work: CollectiveWork, limits: Limits) -> _Known | None:
    """What ``curves`` know of such a collective; None if it was not measured.

    Of an all-reduce the kernel that the engine takes within ``limits``, where it was measured.
    """
    if work.operation == "all_reduce":
        own = curves.get(limits.kernel(work.ranks, work.payload_bytes) or "")
        if own and own.spans(work.ranks):
            return own
    return curves.get(work.operation)


def link_limits(link: Link) -> Limits:
    """What the engine reduces with among devices that ``link`` joins."""
    return limits_of(link.generation, link.multicast)


def closed_form(link: Link, operation: str, ranks: int, payload_bytes: float) -> float:
    """Seconds of a collective from a link's data sheet.

    The ring sends ``wire·payload`` in ``steps`` messages (Thakur, Rabenseifner, Gropp:
    Optimization of Collective Communication Operations in MPICH, 2005). An all-reduce may
    instead be one-shot: each device reads the whole payload of all its peers at once, with one
    message's latency; the faster of both is taken, as engines do. Without peer access there is
    only NCCL's ring, in the protocol that its own model finds faster.
    """
    steps, wire = STEPS[operation](ranks), WIRE[operation](ranks) * payload_bytes
    if not link.peer_access:
        return min(
            start + steps * step + wire / (link.bandwidth * share)
            for start, step, share in NCCL_PROTOCOLS.values()
        )
    bandwidth = link.bandwidth * EFFICIENCY
    seconds = LAUNCH + steps * link.latency + wire / bandwidth
    if operation == "all_reduce":
        one_shot = LAUNCH + link.latency + (ranks - 1) * payload_bytes / bandwidth
        return min(seconds, one_shot)
    return seconds
