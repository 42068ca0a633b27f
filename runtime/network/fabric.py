"""The links of a topology as things that flows share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from servesim.hardware.link import Link
from servesim.hardware.topology import Topology


@dataclass(frozen=True, slots=True)
class Path:
    """The way from one node to another.

    Attributes:
        links: numbers of the links crossed, in order; none inside a node.
        latency_s: of all of them.
    """

    links: tuple[int, ...]
    latency_s: float


@dataclass(frozen=True)
class Fabric:
    """A topology whose links carry bytes both ways at once, each way a resource of its own."""

    topology: Topology

    @cached_property
    def _numbers(self) -> dict[tuple[str, str], tuple[int, Link]]:
        """Number of each direction of each pair of nodes; of parallel links the fastest counts."""
        found: dict[tuple[str, str], tuple[int, Link]] = {}
        for a, b, link in sorted(self.topology.edges, key=lambda edge: edge[2].bandwidth):
            for ends in ((a, b), (b, a)):
                number, _ = found.get(ends, (len(found), link))
                found[ends] = number, link
        return found

    @cached_property
    def capacity(self) -> dict[int, float]:
        """Bytes per second of each link."""
        return {number: link.bandwidth for number, link in self._numbers.values()}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """What each link is called, by number: ``from -> to``."""
        return tuple(f"{a} -> {b}" for a, b in self._numbers)

    @cached_property
    def _paths(self) -> dict[tuple[str, str], Path]:
        return {}

    def path(self, start: str, end: str) -> Path:
        """The way of least latency.

        Raises:
            UnknownNameError: no such node.
            UnsupportedError: no way leads there.
        """
        if (start, end) not in self._paths:
            hops = [self._numbers[ends] for ends in pairwise(self.topology.way(start, end))]
            latency_s = sum(link.latency for _, link in hops)
            self._paths[start, end] = Path(tuple(number for number, _ in hops), latency_s)
        return self._paths[start, end]
