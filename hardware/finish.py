"""When an operator would end on each device, transfers of its inputs included."""

from __future__ import annotations

from servesim.errors import CapacityError, UnsupportedError
from servesim.graph.batch import BatchShape
from servesim.graph.op import STREAM, Op
from servesim.graph.opgraph import Block
from servesim.graph.work import CollectiveWork
from servesim.hardware.placement import result_bytes
from servesim.hardware.placers import Site
from servesim.hardware.topology import transfer_seconds


class Finish:
    """Operators placed one after another, each where it ends first.

    Collectives stay on the default device, whose link they are for. A block starts with its
    stream on the default device, so that equal layers fit behind each other.
    """

    def __init__(self, site: Site, batch: BatchShape, share: float) -> None:
        self.site, self.batch = site, batch
        self.room = {name: share * d.memory.capacity_bytes for name, d in site.devices.items()}

    def start(self, block: Block) -> None:
        """Go on with ``block``."""
        self.block, self.before = block, STREAM
        self.free = dict.fromkeys(self.site.devices, 0.0)
        self.made = {STREAM: (self.site.default, 0.0, 0.0)}  # device, end, bytes of results

    def place(self, op: Op) -> str:
        """The device on which ``op`` ends first, of those it fits.

        Raises:
            CapacityError: it fits none.
        """
        weights = op.spec.weight_bytes * self.block.count
        inputs = op.inputs or (self.before,)
        ends = {
            name: end
            for name in self.site.devices
            if weights <= self.room[name] and (end := self._end(op, inputs, name)) is not None
        }
        if not ends:
            raise CapacityError(f"{self.block.name}/{op.name} fits no memory any more")
        device = min(ends, key=lambda name: ends[name])
        self.room[device] -= weights
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
            return ready + self.site.devices[name].cost_model.cost(work).seconds
        except UnsupportedError:
            return None
