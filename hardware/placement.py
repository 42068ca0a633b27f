"""Which device runs which operator, proven to fit and to be connected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from servesim import units
from servesim.errors import CapacityError, UnknownNameError, UnsupportedError
from servesim.graph.batch import BatchShape
from servesim.graph.op import STREAM, Op
from servesim.graph.opgraph import Block, OpGraph
from servesim.graph.work import CollectiveWork, Work
from servesim.hardware.collective_tables import collective_cost
from servesim.hardware.cost import Cost, CostModel, usable
from servesim.hardware.device import Device
from servesim.hardware.load import load_device
from servesim.hardware.topology import Topology
from servesim.hardware.transfer import Transfer

#: An operator of a graph: names of its block and of itself.
OpKey = tuple[str, str]


def serial_seconds(placement: Placement, batch: BatchShape) -> float:
    """Seconds of all operators of a step of ``batch`` and all transfers, one after another."""
    seconds = sum(t.count * t.cost(batch).seconds for t in placement.transfers)
    for block in placement.graph.blocks:
        for op in block.ops:
            if op.runs(batch):
                cost = placement.cost(placement.name_of(block, op), op.work(batch))
                seconds += block.count * cost.seconds
    return seconds


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
        handed: the default device is handed what the first layer reads (by the stage before it).
        hands_on: it hands on what the last layer makes (to the stage behind it).

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
    handed: bool = False
    hands_on: bool = False

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
        """The cost of ``work`` on the device called ``name``; collectives go to its peer link.

        Raises:
            InputError: what the cost model says is no cost.
        """
        if isinstance(work, CollectiveWork):
            return usable(self._collectives.cost(work), name, work)
        return usable(self.cost_model(name).cost(work), name, work)

    @cached_property
    def transfers(self) -> tuple[Transfer, ...]:
        """What moves between devices in one forward pass, inside blocks and from block to block.

        A layer takes its stream from the layer before it, the first one from the block before
        (from itself, if there is none). An operator without inputs reads the one before it.

        Raises:
            UnsupportedError: two devices that must exchange results are not connected.
        """
        if not self.where:
            return ()
        incoming = (
            transfer
            for block in self.graph.blocks
            for i in range(len(block.ops))
            for transfer in self._incoming(block, i)
        )
        return (*incoming, *(self._outgoing() if self.hands_on else ()))

    def _outgoing(self) -> Iterator[Transfer]:
        """What the last layer made, to the default device."""
        blocks = (block for block in self.graph.blocks if block.ops)
        block = max(blocks, key=lambda block: max(block.layers, default=-1))
        last = block.ops[-1]
        there, here = self.name_of(block, last), self.default
        if there != here:
            yield Transfer(last, 1, (there, here), self.topology.route(there, here), block.name)

    def _incoming(self, block: Block, i: int) -> Iterator[Transfer]:
        """What operator ``i`` of ``block`` reads from other devices."""
        op, ops = block.ops[i], {op.name: op for op in block.ops}
        here = self.name_of(block, op)
        found: dict[str, list[tuple[Op, int]]] = {}
        for name in op.inputs or ((block.ops[i - 1].name,) if i else (STREAM,)):
            if name == STREAM:
                read = self._before[block.name]
            else:
                read = ((self.name_of(block, ops[name]), ops[name], block.count),)
            for there, producer, count in read:
                if there != here:
                    found.setdefault(there, []).append((producer, count))
        for there, producers in found.items():
            *others, (producer, _) = producers
            count = min(block.count, sum(n for _, n in producers))
            ends, route = (there, here), self.topology.route(there, here)
            also = tuple(other for other, _ in others)
            yield Transfer(producer, count, ends, route, block.name, op.name, also)

    @cached_property
    def _before(self) -> dict[str, tuple[tuple[str, Op, int], ...]]:
        """By block: the devices and last operators of what precedes it, and how often they do."""
        blocks = [block for block in self.graph.blocks if block.ops]
        owner = {layer: block for block in blocks for layer in block.layers}
        found: dict[str, tuple[tuple[str, Op, int], ...]] = {}
        outside: Block | None = None  # the latest block outside the layers, and what precedes one
        behind: Block | None = None
        for block in blocks:
            times: dict[tuple[str, str], tuple[str, Op, int]] = {}
            for layer in block.layers or (None,):
                before = behind if layer is None else owner.get(layer - 1, outside)
                if before is None and layer is None:
                    continue
                handed = before is None and self.handed
                last = (before or block).ops[-1]
                name = self.default if handed else self.name_of(before or block, last)
                key = "" if handed else (before or block).name, last.name
                times[key] = name, last, times.get(key, (name, last, 0))[2] + 1
            found[block.name] = tuple(times.values())
            outside = outside if block.layers else block
            behind = owner[max(owner)] if block.layers else block
        return found

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
        if ranks == 1 or self.collectives is not None:  # which knows whom it joins
            return
        if link is None:
            raise UnsupportedError(f"{device.name} has no link to form a group of {ranks}")
        if link.devices is not None and ranks > link.devices:
            raise UnsupportedError(
                f"a group of {ranks} {device.name}: {link.name} joins {link.devices}; for more, "
                "give [hardware] a link or a topology"
            )
