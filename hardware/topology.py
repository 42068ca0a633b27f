"""Which devices are joined by which links, and the way from one to another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

from servesim.errors import UnknownNameError, UnsupportedError
from servesim.hardware.link import Link

if TYPE_CHECKING:
    import networkx as nx

Route = tuple[Link, ...]

#: Seconds that break ties: of ways with equal latency the one of fewest hops.
_HOP = 1e-12


@dataclass(frozen=True)
class Topology:
    """Named devices (or switches) and the links between them, each usable in both directions.

    Attributes:
        nodes: all names.
        edges: (name, name, link).
    """

    nodes: tuple[str, ...]
    edges: tuple[tuple[str, str, Link], ...] = ()

    def __post_init__(self) -> None:
        for a, b, _ in self.edges:
            for name in (a, b):
                if name not in self.nodes:
                    raise UnknownNameError("device", name, self.nodes)

    @classmethod
    def fully_connected(cls, nodes: Sequence[str], link: Link) -> Topology:
        """Every pair of ``nodes`` joined by ``link``: a switch, or all to all."""
        pairs = [(a, b, link) for i, a in enumerate(nodes) for b in nodes[i + 1 :]]
        return cls(tuple(nodes), tuple(pairs))

    def route(self, start: str, end: str) -> Route:
        """The links of least latency from ``start`` to ``end``; none when they are the same.

        Raises:
            UnknownNameError: no such device.
            UnsupportedError: no way leads there.
        """
        way = self.way(start, end)
        return tuple(self._graph[a][b]["link"] for a, b in pairwise(way))

    def way(self, start: str, end: str) -> tuple[str, ...]:
        """The nodes on the way from ``start`` to ``end``: of least latency, then of fewest hops.

        Raises:
            UnknownNameError: no such device.
            UnsupportedError: no way leads there.
        """
        for name in (start, end):
            if name not in self.nodes:
                raise UnknownNameError("device", name, self.nodes)
        if start == end:
            return (start,)
        import networkx as nx

        try:
            return tuple(nx.dijkstra_path(self._graph, start, end, weight="latency"))
        except nx.NetworkXNoPath as error:
            raise UnsupportedError(f"no link leads from {start} to {end}") from error

    @cached_property
    def _graph(self) -> nx.Graph[str]:
        """The network; of parallel links the one of most bandwidth."""
        import networkx as nx

        graph: nx.Graph[str] = nx.Graph()
        graph.add_nodes_from(self.nodes)
        for a, b, link in sorted(self.edges, key=lambda edge: edge[2].bandwidth):
            graph.add_edge(a, b, link=link, latency=link.latency + _HOP)
        return graph


def transfer_seconds(route: Route, payload_bytes: float) -> float:
    """Seconds to send ``payload_bytes`` along ``route``, cut through at every hop.

    The latencies add up; the narrowest link sets the pace.
    """
    if not route:
        return 0.0
    slowest = min(link.bandwidth for link in route)
    return sum(link.latency for link in route) + payload_bytes / slowest
