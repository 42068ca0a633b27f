"""Collectives of a group whose members are joined by a topology, as a cost model."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from servesim.errors import UnsupportedError
from servesim.graph.work import CollectiveWork, Work
from servesim.hardware.collectives import EFFICIENCY, LAUNCH
from servesim.hardware.cost import Cost, Source
from servesim.hardware.topology import Topology
from servesim.runtime.network.collectives import ALGORITHMS, rounds_of, seconds
from servesim.runtime.network.fabric import Fabric


@dataclass(frozen=True)
class TopologyCollectives:
    """The fastest algorithm for each operation and payload, every transfer with its contention.

    An algorithm's time is linear in the payload, so each is simulated for two of them. Of a link's
    bandwidth ``EFFICIENCY`` is reached, and each collective costs a launch, as on a plain link.

    Attributes:
        topology: of the members and what joins them.
        members: their names, neighbours side by side.
        group: members of a server, for two-level algorithms; 1 for none.
    """

    topology: Topology
    members: tuple[str, ...]
    group: int = 1
    _lines: dict[tuple[str, int], tuple[tuple[float, float], ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @cached_property
    def fabric(self) -> Fabric:
        """The links."""
        return Fabric(self.topology)

    def cost(self, work: Work) -> Cost:
        """The cost of a collective; nothing with a single rank or an empty payload.

        Raises:
            UnsupportedError: not a collective, or more ranks than members.
            UnknownNameError: no such operation.
        """
        if not isinstance(work, CollectiveWork):
            raise UnsupportedError(f"a network has no cost for {work.family} work")
        if work.ranks <= 1 or work.payload_bytes <= 0:
            return Cost(0.0, Source.ANALYTICAL)
        if work.ranks > len(self.members):
            raise UnsupportedError(
                f"{work.operation} among {work.ranks} devices: the topology has {len(self.members)}"
            )
        payload = work.payload_bytes / EFFICIENCY
        lines = self._all(work.operation, work.ranks)
        best = min(latency + slope * payload for latency, slope in lines)
        return Cost(LAUNCH + best, Source.ANALYTICAL)

    def _all(self, operation: str, ranks: int) -> tuple[tuple[float, float], ...]:
        """Latency and seconds per byte of each algorithm."""
        if (operation, ranks) not in self._lines:
            names = list(ALGORITHMS.get(operation, {"": None}))
            if operation == "all_reduce" and 1 < self.group < ranks and ranks % self.group == 0:
                names.append("hierarchical")
            self._lines[operation, ranks] = tuple(
                self._line(operation, name, ranks) for name in names
            )
        return self._lines[operation, ranks]

    def _line(self, operation: str, algorithm: str, ranks: int) -> tuple[float, float]:
        def at(payload: float) -> float:
            members = self.members[:ranks]
            return seconds(
                self.fabric, rounds_of(operation, algorithm, members, payload, self.group)
            )

        large = 1e9
        latency = at(0.0)
        return latency, (at(large) - latency) / large
