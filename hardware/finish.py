"""When an operator would end on each device, transfers of its inputs included."""

from __future__ import annotations

from servesim.errors import CapacityError, UnsupportedError
from servesim.graph.batch import BatchShape
from servesim.graph.op import STREAM, Op
from servesim.graph.opgraph import Block
from servesim.graph.work import CollectiveWork
from servesim.hardware.placers import ROUNDING, Site
from servesim.hardware.topology import transfer_seconds
from servesim.hardware.transfer import result_bytes


class Finish:
    """Operators placed one after another, each where it ends first.

    Collectives stay on the default device, whose link they are for. A layer starts with its
    stream on the default device, so that equal layers fit behind each other.
    """

    def __init__(self, site: Site, batch: BatchShape, share: float) -> None:
        self.site, self.batch = site, batch
        self.room = {name: share * d.memory.capacity_bytes for name, d in site.devices.items()}

    def layers(self, block: Block) -> tuple[tuple[str, ...], ...]:
        """Devices of the operators of ``block`` in each of its layers, as long as they fit.

        Raises:
            CapacityError: an operator fits no memory any more.
        """
        found: list[tuple[str, ...]] = []
        while len(found) < block.count:
            names = self._layer(block)
            weights = dict.fromkeys(names, 0.0)
            for op, name in zip(block.ops, names, strict=True):
                weights[name] += op.spec.weight_bytes
            most = [int(self.room[n] / w + ROUNDING) for n, w in weights.items() if w]
            layers = max(1, min(block.count - len(found), *most))
            for name, taken in weights.items():
                self.room[name] -= layers * taken
            found += [names] * layers
        return tuple(found)

    def _layer(self, block: Block) -> tuple[str, ...]:
        """Devices of the operators of one layer."""
        self.block, self.before, self.left = block, STREAM, dict(self.room)
        self.free = dict.fromkeys(self.site.devices, 0.0)
        self.made = {STREAM: (self.site.default, 0.0, 0.0)}  # device, end, bytes of results
        return tuple(self._place(op) for op in block.ops)

    def _place(self, op: Op) -> str:
        """The device on which ``op`` ends first, of those it fits."""
        weights = op.spec.weight_bytes
        inputs = op.inputs or (self.before,)
        ends = {
            name: end
            for name in self.site.devices
            if weights <= self.left[name] and (end := self._end(op, inputs, name)) is not None
        }
        if not ends:
            raise CapacityError(f"{self.block.name}/{op.name} fits no memory any more")
        device = min(ends, key=lambda name: ends[name])
        self.left[device] -= weights
        self.free[device], self.before = ends[device], op.name
        runs = op.runs(self.batch)
        made = result_bytes(op.work(self.batch)) if runs else 0.0
        self.made[op.name] = (device, ends[device], made)
        return device

    def _end(self, op: Op, inputs: tuple[str, ...], name: str) -> float | None:
        """When ``op`` would end on the device called ``name``; None where it cannot run."""
        ready = self.free[name]
        try:
            for producer in inputs:
                there, end, made = self.made[producer]
                way = self.site.topology.route(there, name) if there != name else ()
                ready = max(ready, end + transfer_seconds(way, made))
            if not op.runs(self.batch):
                return ready if name == self.site.default else None
            work = op.work(self.batch)
            if isinstance(work, CollectiveWork):
                return ready if name == self.site.default else None
            return ready + self.site.cost_model(name).cost(work).seconds
        except UnsupportedError:
            return None
