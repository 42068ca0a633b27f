"""A block cut into pieces that a device or a link does in one go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Literal

import numpy as np

from servesim.graph.batch import BatchShape
from servesim.graph.op import CONTEXT, GROUP, SEQUENCES, TOKENS, Op
from servesim.graph.work import AttentionWork, CollectiveWork
from servesim.hardware.cost import Cost, Source, kernels_alone
from servesim.hardware.placement import Placement
from servesim.hardware.topology import Route, transfer_seconds
from servesim.runtime.host_reads import WEIGHTS, HostReads
from servesim.runtime.step_model import GAPS, SOURCES, OpCost, Seconds

_ANALYTICAL = SOURCES.index(Source.ANALYTICAL)


@dataclass(frozen=True, slots=True)
class Lane:
    """A part of a step's batch, as its operators see it.

    Attributes:
        padded: tokens of the part, padded to a captured size.
        group_tokens: of all ranks that share experts.
        gap_s: between kernels of a part of that size.
    """

    batch: BatchShape
    padded: int
    group_tokens: int
    gap_s: float

    @property
    def moved(self) -> BatchShape:
        """What goes from device to device: of a dummy step its padding."""
        return self.batch if self.batch.tokens else BatchShape.of_tokens(self.padded)

    @property
    def decodes(self) -> BatchShape:
        """The decodes alone."""
        return replace(self.batch, prefills=())

    @property
    def prefills(self) -> BatchShape:
        """The prefills alone."""
        return BatchShape(self.batch.prefills)


@dataclass(frozen=True)
class Kernels:
    """Operators that one device runs one after another.

    Attributes:
        phase: the sequences they are run for.
        after: indices of the pieces of the block that must have ended.
        reads: of their weights, those that lie in the memory of the device's host.
    """

    placement: Placement
    device: str
    ops: tuple[Op, ...]
    phase: Literal["all", "decodes", "prefills"] = "all"
    after: tuple[int, ...] = ()
    reads: HostReads | None = None
    _fixed: dict[tuple[int, int, int], Seconds] = field(
        default_factory=dict, repr=False, compare=False
    )

    @property
    def resources(self) -> tuple[str, ...]:
        """The device, and the link to its host if weights come over it."""
        return (self.device, self.reads.way) if self.reads and self._outside else (self.device,)

    def seconds(self, lane: Lane) -> Seconds:
        """Seconds for ``lane``, in the order of ``SOURCES``."""
        key = (lane.padded, lane.group_tokens, lane.batch.sequences)
        known = self._fixed.get(key)
        if known is None:
            known = _sums(self._costs(lane, context=False))
            known[_ANALYTICAL] += self._gaps * lane.gap_s + self._read_seconds(lane)
            self._fixed[key] = known
        return [a + b for a, b in zip(known, _sums(self._costs(lane, context=True)), strict=True)]

    def rows(self, lane: Lane, count: int) -> Iterator[OpCost]:
        """What each operator takes when the piece runs ``count`` times."""
        for context in (False, True):
            for op, cost in self._costs(lane, context):
                label = op.label or op.name
                yield OpCost(label, self.device, count, count * cost.seconds, cost.source)
        if read := count * self._read_seconds(lane):
            yield OpCost(WEIGHTS, self.device, count, read, Source.ANALYTICAL)
        if self._gaps:
            seconds = count * self._gaps * lane.gap_s
            yield OpCost(GAPS, self.device, count * self._gaps, seconds, Source.ANALYTICAL)

    def _costs(self, lane: Lane, context: bool) -> Iterator[tuple[Op, Cost]]:
        """Costs of the operators that see contexts, or of the others."""
        for op in self.ops:
            if (op.spec.depends == CONTEXT) == context:
                batch = self._seen(op, lane)
                if op.runs(batch):
                    yield op, self._cost(op, batch)

    def _seen(self, op: Op, lane: Lane) -> BatchShape:
        sequences = lane.batch.sequences
        match op.spec.depends:
            case _ if self.phase == "decodes":
                return lane.decodes
            case _ if self.phase == "prefills":
                return lane.prefills
            case depends if depends == TOKENS:
                return BatchShape.of_tokens(lane.padded)
            case depends if depends == GROUP:
                return BatchShape(((lane.padded, 0),), group_tokens=lane.group_tokens)
            case depends if depends == SEQUENCES:
                return BatchShape((), sequences, sequences, 1)
        return lane.batch

    def _cost(self, op: Op, batch: BatchShape) -> Cost:
        work, contexts = op.work(batch), batch.contexts
        attention = getattr(self.placement.cost_model(self.device), "attention", None)
        if attention is None or contexts is None or not isinstance(work, AttentionWork):
            return self.placement.cost(self.device, work)
        cost: Cost = attention(work, np.minimum(contexts + 1, work.window or np.inf))
        return cost

    def _read_seconds(self, lane: Lane) -> float:
        """Seconds in which weights come from the host."""
        if self.reads is None:
            return 0.0
        return sum(self.reads.seconds(op, self._seen(op, lane)) for op in self._outside)

    @cached_property
    def _outside(self) -> tuple[Op, ...]:
        """The operators with weights in the memory of the host."""
        return tuple(op for op in self.ops if self.reads and self.reads.concerns(op))

    @property
    def _gaps(self) -> int:
        """Kernels whose cost is without the gap to the next one."""
        if self.phase == "prefills" or not kernels_alone(self.placement.cost_model(self.device)):
            return 0
        probe = BatchShape(((2, 1),), 1, 1, 1, np.array([1]))
        return sum(not isinstance(op.work(probe), CollectiveWork) for op in self.ops)


@dataclass(frozen=True)
class Send:
    """Results, or a part of the KV cache, that go from device to device.

    Attributes:
        ends: names of the two devices.
        cost: seconds for a part of the batch.
        resources: the links on the way, each direction one.
        after: indices of the pieces of the block that must have ended.
    """

    label: str
    ends: tuple[str, str]
    cost: Callable[[Lane], float]
    resources: tuple[str, ...]
    after: tuple[int, ...] = ()

    def seconds(self, lane: Lane) -> Seconds:
        """Seconds for ``lane``, in the order of ``SOURCES``."""
        seconds = [0.0] * len(SOURCES)
        seconds[_ANALYTICAL] = self.cost(lane)
        return seconds

    def rows(self, lane: Lane, count: int) -> Iterator[OpCost]:
        """What the transfer takes, ``count`` times over."""
        seconds = count * self.cost(lane)
        yield OpCost(self.label, "->".join(self.ends), count, seconds, Source.ANALYTICAL)


Piece = Kernels | Send


def hops(placement: Placement, ends: tuple[str, str]) -> tuple[str, ...]:
    """Names of the links on the way, each direction one."""
    return tuple(f"{a}->{b}" for a, b in pairwise(placement.topology.way(*ends)))


def kv_read(op: Op, route: Route) -> Callable[[Lane], float]:
    """Seconds to read the contexts of prefills from where the KV cache of attention ``op`` is."""

    def seconds(lane: Lane) -> float:
        contexts = [context for _, context in lane.batch.prefills if context]
        if not contexts:
            return 0.0
        work = op.work(lane.prefills)
        assert isinstance(work, AttentionWork)
        keys = sum(min(context, work.window or context) for context in contexts)
        return transfer_seconds(route, keys * work.kv_bytes_per_token)

    return seconds


def _sums(costs: Iterator[tuple[Op, Cost]]) -> Seconds:
    seconds = [0.0] * len(SOURCES)
    for _, cost in costs:
        seconds[SOURCES.index(cost.source)] += cost.seconds
    return seconds
