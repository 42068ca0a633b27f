"""Attention on some devices, FFNs on others: the placement of a joined graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from servesim.errors import CapacityError, UnsupportedError
from servesim.graph.batch import BatchShape
from servesim.graph.dtypes import bytes_per_element
from servesim.graph.opgraph import OpGraph
from servesim.graph.passes.attention_ffn import FFN, ffn_keys
from servesim.graph.work import CollectiveWork, Work
from servesim.hardware.collective_tables import collective_cost
from servesim.hardware.cost import Cost, CostModel, Source
from servesim.hardware.device import Device
from servesim.hardware.link import Link
from servesim.hardware.load import load_device
from servesim.hardware.placement import Placement
from servesim.hardware.topology import Topology, transfer_seconds
from servesim.hardware.transfer import Transfer
from servesim.units import gib


@dataclass(frozen=True)
class Sides:
    """How many devices there are on either side, each with a link of its own to the other side.

    Attributes:
        workers: attention workers, data-parallel: each has a batch and a KV cache of its own.
        ranks: devices of each, tensor-parallel.
        ffn_devices: on which the batches of all workers meet.
    """

    workers: int
    ranks: int
    ffn_devices: int

    def busiest(self, own: int, together: int) -> float:
        """Tokens through the busiest link, of ``own`` of this worker and ``together`` of all.

        Each device sends or receives its share.
        """
        return max(own / self.ranks, together / self.ffn_devices)


@dataclass(frozen=True, slots=True)
class Activations(Transfer):
    """The hidden states of a step's tokens on their way to the FFN devices, or back.

    Attributes:
        sides: who sends to whom.
        token_bytes: of a token's hidden state.
    """

    sides: Sides = field(default_factory=lambda: Sides(1, 1, 1))
    token_bytes: float = 0.0

    def cost(self, batch: BatchShape) -> Cost:
        """The cost of one transfer for ``batch`` of this worker and what the others send then."""
        own = max(batch.tokens, batch.padded_tokens)
        together = batch.group_tokens or own * self.sides.workers
        payload = self.sides.busiest(own, together) * self.token_bytes
        return Cost(transfer_seconds(self.route, payload), Source.ANALYTICAL)


@dataclass(frozen=True)
class AttentionFfnPlacement(Placement):
    """A joined graph (``graph/passes/attention_ffn.py``) on two kinds of devices.

    The attention devices are ``default``, the FFN devices are called ``ffn``.

    Attributes:
        sides: how many there are.
    """

    sides: Sides = field(default_factory=lambda: Sides(1, 1, 1))

    @classmethod
    def of(
        cls,
        graph: OpGraph,
        devices: tuple[Device, Device],
        link: Link,
        sides: Sides,
        costs: Mapping[str, CostModel],
        collectives: CostModel | None = None,
    ) -> AttentionFfnPlacement:
        """``graph`` with its attention on the first of ``devices``, its FFNs on the second.

        Args:
            link: of each device to those of the other side.
            costs: stand in for the devices' own cost models; the FFN device's as ``ffn``.
            collectives: of an attention worker's ranks.

        Raises:
            CapacityError, UnsupportedError: as ``Placement``, for either group.
        """
        attention, ffn = devices
        name = attention.name
        return cls(
            graph,
            {name: attention, FFN: replace(ffn, name=FFN)},
            name,
            dict.fromkeys(ffn_keys(graph), FFN),
            Topology.fully_connected((name, FFN), link),
            costs,
            collectives,
            sides=sides,
        )

    def cost(self, name: str, work: Work) -> Cost:
        """The cost of ``work``; collectives among FFN devices go to their own link."""
        if isinstance(work, CollectiveWork) and work.group == FFN:
            return self._ffn_collectives.cost(work)
        return super().cost(name, work)

    @cached_property
    def transfers(self) -> tuple[Transfer, ...]:
        """What moves: to the FFN and back, each once for every layer.

        Of several operators that read the same results, the first receives them for all.
        """
        token = self.graph.hidden_size * bytes_per_element(self.graph.dtype)
        found: dict[tuple[str, tuple[str, str], str], Transfer] = {}
        for one in super().transfers:
            moved = Activations(
                one.producer, one.count, one.ends, one.route, one.block, one.consumer, one.others,
                self.sides, token,
            )  # fmt: skip
            found.setdefault((one.block, one.ends, one.producer.name), moved)
        return tuple(found.values())

    @cached_property
    def _ffn_collectives(self) -> CostModel:
        return collective_cost(self.devices[FFN], load_device)

    def _require_memory(self) -> None:
        for name, count in ((self.default, self.sides.ranks), (FFN, self.sides.ffn_devices)):
            weights, capacity = self.weight_bytes(name), self.devices[name].memory.capacity_bytes
            if weights > capacity:
                raise CapacityError(
                    f"the weights of {self.graph.model} take {gib(weights)} on each of "
                    f"{count} x {name}, which has {gib(capacity)}"
                )

    def _require_peers(self) -> None:
        super()._require_peers()
        device, count = self.devices[FFN], self.sides.ffn_devices
        link = device.peer_link
        if count > 1 and (link is None or (link.devices is not None and count > link.devices)):
            joins = "has no link" if link is None else f"{link.name} joins {link.devices}"
            raise UnsupportedError(f"a group of {count} FFN devices: {device.title or FFN} {joins}")
