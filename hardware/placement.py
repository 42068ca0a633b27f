"""Which device runs which operator, proven to fit and to be connected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from servesim import units
from servesim.errors import CapacityError, UnknownNameError, UnsupportedError
from servesim.graph.batch import BatchShape
from servesim.graph.op import STREAM, Op
from servesim.graph.opgraph import Block, OpGraph
from servesim.graph.work import CollectiveWork, Work
from servesim.hardware.collective_tables import collective_cost
from servesim.hardware.cost import Cost, CostModel, Source
from servesim.hardware.device import Device
from servesim.hardware.load import load_device
from servesim.hardware.topology import Route, Topology, transfer_seconds

#: An operator of a graph: names of its block and of itself.
OpKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Transfer:
    """Results that a block's operator hands to an operator on another device.

    Attributes:
        producer: the operator whose results move.
        count: times a forward pass runs the block.
        ends: names of the two devices.
        route: the links between them.
    """

    producer: Op
    count: int
    ends: tuple[str, str]
    route: Route

    def cost(self, batch: BatchShape) -> Cost:
        """The cost of one transfer of what the producer writes for ``batch``."""
        payload = self.producer.work(batch).bytes_written
        return Cost(transfer_seconds(self.route, payload), Source.ANALYTICAL)


@dataclass(frozen=True, slots=True)
class PlacementRow:
    """What one device (and each of its ``ranks`` equals) got, for printing."""

    name: str
    device: Device
    ranks: int
    operators: int
    weight_bytes: float
    link: str


@dataclass(frozen=True)
class Placement:
    """The operators of one rank's graph on named devices.

    A tensor-parallel group is one name: all its ranks run the same graph shard at the same time,
    joined by the device's peer link.

    Attributes:
        graph: the shard of one rank.
        devices: by name.
        topology: joins the named devices; needed only when there are several.
        where: name of the device of each operator that is not on ``default``.
        default: name of the device of all others.
        costs: cost models that stand in for the devices' own, by device name.
        collectives: cost model of the group's collectives, instead of the peer link's.
        outside_bytes: of the default device's weights that stay in the memory of its host.

    Raises:
        CapacityError: the weights do not fit a memory.
        UnknownNameError: an operator or device that does not exist.
        UnsupportedError: operators that exchange results have no route between them, or the peer
            link joins fewer devices than the group has.
    """

    graph: OpGraph
    devices: Mapping[str, Device]
    default: str
    where: Mapping[OpKey, str] = field(default_factory=dict)
    topology: Topology = field(default_factory=lambda: Topology(()))
    costs: Mapping[str, CostModel] = field(default_factory=dict)
    collectives: CostModel | None = None
    outside_bytes: float = 0.0

    @classmethod
    def tensor_parallel(
        cls,
        graph: OpGraph,
        device: Device,
        costs: CostModel | None = None,
        collectives: CostModel | None = None,
        outside_bytes: float = 0.0,
    ) -> Placement:
        """Every operator on ``device``, one of ``graph.tensor_parallel_size`` equal ranks.

        Args:
            costs: stands in for the device's own cost model (a table of the model, say).
            collectives: stands in for that of the device's peer link.
            outside_bytes: of each rank's weights that are in no device's memory.
        """
        given = {device.name: costs} if costs is not None else {}
        return cls(
            graph,
            {device.name: device},
            device.name,
            costs=given,
            collectives=collectives,
            outside_bytes=outside_bytes,
        )

    def __post_init__(self) -> None:
        ops = {(block.name, op.name) for block in self.graph.blocks for op in block.ops}
        for key, name in self.where.items():
            if key not in ops:
                raise UnknownNameError("operator", "/".join(key), ("/".join(k) for k in ops))
            self._known(name)
        self._known(self.default)
        self._require_memory()
        self._require_peers()
        len(self.transfers)  # finds the routes, or raises

    def name_of(self, block: Block, op: Op) -> str:
        """Name of the device that runs ``op``."""
        return self.where.get((block.name, op.name), self.default)

    def cost_model(self, name: str) -> CostModel:
        """The cost model of the device called ``name``."""
        return self.costs.get(name) or self.devices[name].cost_model

    def cost(self, name: str, work: Work) -> Cost:
        """The cost of ``work`` on the device called ``name``; collectives go to its peer link."""
        if isinstance(work, CollectiveWork):
            return self._collectives.cost(work)
        return self.cost_model(name).cost(work)

    @cached_property
    def transfers(self) -> tuple[Transfer, ...]:
        """What moves between devices in one forward pass, inside blocks and from block to block.

        A repeated block takes its stream from its own end, any other from the block before. An
        operator without inputs reads the one before it.

        Raises:
            UnsupportedError: two devices that must exchange results are not connected.
        """
        found = []
        before: tuple[Op, str] | None = None
        for block in self.graph.blocks:
            if not block.ops:
                continue
            placed = {op.name: (op, self.name_of(block, op)) for op in block.ops}
            last = placed[block.ops[-1].name]
            stream = last if block.count > 1 else before
            for i, op in enumerate(block.ops):
                here = placed[op.name][1]
                names = op.inputs or ((block.ops[i - 1].name,) if i else (STREAM,))
                producers = [stream if name == STREAM else placed.get(name) for name in names]
                there = {p[1]: p[0] for p in producers if p is not None and p[1] != here}
                for name, producer in there.items():
                    route = self.topology.route(name, here)
                    found.append(Transfer(producer, block.count, (name, here), route))
            before = last
        return tuple(found)

    def weight_bytes(self, name: str) -> float:
        """Bytes of weights on (each rank of) the device called ``name``."""
        if not self.where:
            return self.graph.weight_bytes if name == self.default else 0.0
        return sum(
            op.spec.weight_bytes * block.count
            for block in self.graph.blocks
            for op in block.ops
            if self.name_of(block, op) == name
        )

    def describe(self) -> tuple[PlacementRow, ...]:
        """One row a device."""
        rows = []
        for name, device in self.devices.items():
            count = sum(
                block.count
                for block in self.graph.blocks
                for op in block.ops
                if self.name_of(block, op) == name
            )
            link = device.peer_link.name if device.peer_link else ""
            ranks = self.graph.tensor_parallel_size
            rows.append(PlacementRow(name, device, ranks, count, self.weight_bytes(name), link))
        return tuple(rows)

    @cached_property
    def _collectives(self) -> CostModel:
        return self.collectives or collective_cost(self.devices[self.default], load_device)

    def _known(self, name: str) -> None:
        if name not in self.devices:
            raise UnknownNameError("device", name, self.devices)

    def _require_memory(self) -> None:
        for name, device in self.devices.items():
            weights, capacity = self.weight_bytes(name), device.memory.capacity_bytes
            if name == self.default:
                weights -= self.outside_bytes
            if weights > capacity:
                raise CapacityError(
                    f"the weights of {self.graph.model} take {units.gib(weights)} on each of "
                    f"{self.graph.tensor_parallel_size} x {name}, which has {units.gib(capacity)}"
                )

    def _require_peers(self) -> None:
        ranks, device = self.graph.tensor_parallel_size, self.devices[self.default]
        link = device.peer_link
        if ranks == 1 or self.collectives is not None:
            return  # what stands in for the link knows whom it joins
        if link is None:
            raise UnsupportedError(f"{device.name} has no link to form a group of {ranks}")
        if link.devices is not None and ranks > link.devices:
            raise UnsupportedError(
                f"a group of {ranks} {device.name}: {link.name} joins {link.devices}"
            )
