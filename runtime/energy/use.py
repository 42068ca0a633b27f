"""What steps use of a device: arithmetic, memory, links; compiled as step times are.

An operator that sees only tokens, or sequences, becomes a table over their number; one that sees
contexts is linear in a few sums over the batch (exactly so without windows). A whole run's steps
are then evaluated at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from servesim.errors import UnsupportedError
from servesim.graph.batch import BatchShape
from servesim.graph.op import CONTEXT, SEQUENCES, Op, OpSpec
from servesim.graph.ops.gathered import GatheredAttention
from servesim.graph.work import AttentionWork, CollectiveWork, Work
from servesim.hardware.device import Device
from servesim.hardware.placement import Placement
from servesim.hardware.shared_keys import near_bytes, share_found
from servesim.runtime.energy.columns import StepColumns, Values, features_of, sums_of

#: Family of weights that a device reads over the link to its host.
HOST_READS = "experts from host"
#: What a use is made of: seconds at full bandwidth, seconds at peak arithmetic, bytes over links.
MEMORY, COMPUTE, LINK = 0, 1, 2
#: Tables hold every number up to the first and steps of this factor beyond.
_DENSE, _STEP = 16, 1.1
#: Limits that clip the context an operator sees, where its spec has them.
_WINDOWS = ("window", "chunk", "selected")
#: Two decodes that share nothing, and two that share all of their contexts.
_APART = BatchShape((), 2, 32, 16)
_ALIKE = replace(_APART, shared_context=16, repeated_context=16)


@dataclass(frozen=True)
class OpUse:
    """The use of equal operators of one family on one device.

    Attributes:
        device: its name in the placement.
        family: of the work.
        depends: what the operators see of a batch.
        at: use and seconds of one step of a given batch: (memory, compute, link, seconds).
        holds: tokens of shared context whose keys the device's cache holds.
    """

    device: str
    family: str
    depends: str
    window: float | None
    at: Callable[[BatchShape], tuple[float, float, float, float]]
    holds: float = math.inf

    def use(self, rows: StepColumns) -> Values:
        """(rows, 3): ``MEMORY``, ``COMPUTE`` and ``LINK`` of each step."""
        if self.depends == CONTEXT:
            near = rows.repeated_context * self.near(rows.shared_context)
            again = near[:, None] * self.repeated
            return np.asarray(rows.features(self.window) @ self.coefficients + again)
        return self._tabled(self._count(rows))[:, :3]

    def seconds(self, rows: StepColumns) -> Values:
        """Seconds of each step; zero for contextual operators, whose time is what is left."""
        if self.depends == CONTEXT:
            return np.zeros(len(rows.decodes))
        return self.seconds_of(self._count(rows))

    def seconds_of(self, count: Values) -> Values:
        """Seconds of steps of so many tokens (or sequences)."""
        return self._tabled(count)[:, 3]

    def known(self, count: int) -> tuple[float, float, float, float]:
        """(memory, compute, link, seconds) of a step of ``count`` tokens (or sequences)."""
        if count not in self._tables:
            batch = (
                BatchShape((), count, count, 1)
                if self.depends == SEQUENCES
                else BatchShape.of_tokens(count)
            )
            self._tables[count] = self.at(batch)
        return self._tables[count]

    @cached_property
    def coefficients(self) -> Values:
        """(8, 3): use of contextual operators for each of ``StepColumns.features``; found from
        batches whose contexts no window clips.
        """
        inside = int(min(self.window or 64, 64)) // 4
        batches = [_probe(*sizes) for sizes in _probes(inside)]
        features = np.array([features_of(sums_of(batch)) for batch in batches])
        found = np.array([self.at(batch)[:3] for batch in batches])
        scale = features.max(axis=0)
        solution = np.linalg.lstsq(features / scale, found, rcond=None)[0]
        return np.asarray(solution / scale[:, None])

    @cached_property
    def repeated(self) -> Values:
        """(3): what reading a token of context again changes of the use of a decode, if near."""
        if self.window is not None:
            return np.zeros(3)
        used, without = (np.array(self.at(batch)[:3]) for batch in (_ALIKE, _APART))
        return np.asarray((used - without) / _ALIKE.repeated_context)

    def near(self, shared: Values | float) -> Values:
        """Share of what is read again that comes from the cache."""
        return share_found(self.holds / np.maximum(shared, 1.0))

    def _count(self, rows: StepColumns) -> Values:
        return rows.sequences if self.depends == SEQUENCES else rows.tokens

    def _tabled(self, count: Values) -> Values:
        knots = _knots(float(count.max(initial=1.0)))
        table = np.array([self.known(int(knot)) for knot in knots])
        columns = [np.interp(count, knots, table[:, i]) for i in range(4)]
        return np.column_stack(columns) * (count > 0)[:, None]

    @cached_property
    def _tables(self) -> dict[int, tuple[float, float, float, float]]:
        return {}


def compile_use(placement: Placement) -> tuple[OpUse, ...]:
    """Every group of equal operators of ``placement``.

    Raises:
        UnsupportedError: ``use_is_known`` says no.
    """
    if not use_is_known(placement):
        raise UnsupportedError("power limits and energy are not known of fused = false")
    return tuple(_groups(placement))


def use_is_known(placement: Placement) -> bool:
    """Whether what each operator uses is linear in sums over a batch, as all but one kind is."""
    ops = placement.graph.weighted_ops()
    return not any(isinstance(op.spec, GatheredAttention) for op, _ in ops)


def _groups(placement: Placement) -> Iterator[OpUse]:
    counts: dict[tuple[OpSpec, str, str], int] = {}
    first: dict[tuple[OpSpec, str, str], Op] = {}
    for block in placement.graph.blocks:
        for op in block.ops:
            key = (op.spec, op.label or op.name, placement.name_of(block, op))
            first.setdefault(key, op)
            counts[key] = counts.get(key, 0) + block.count
    probe = BatchShape(((2, 1),), 1, 1, 1, np.array([1]))
    for key, count in counts.items():
        op, name = first[key], key[2]
        family = op.work(probe).family
        limits = [getattr(op.spec, limit, None) for limit in _WINDOWS]
        window = min((float(limit) for limit in limits if limit is not None), default=None)
        holds = math.inf if window is not None else _held(op, placement.devices[name])
        at = _user(placement, name, op, count)
        yield OpUse(name, family, op.spec.depends, window, at, holds)


def _held(op: Op, device: Device) -> float:
    """Tokens of shared context whose keys the cache of ``device`` holds; infinity without any."""
    work = op.work(_ALIKE) if op.spec.depends == CONTEXT else None
    if device.cache is None or not isinstance(work, AttentionWork) or not work.shared_keys:
        return math.inf
    size = work.shared_keys * work.kv_bytes_per_token
    return device.cache.capacity_bytes * _ALIKE.shared_context / size


def _user(
    placement: Placement, name: str, op: Op, count: int
) -> Callable[[BatchShape], tuple[float, float, float, float]]:
    device = placement.devices[name]

    def at(batch: BatchShape) -> tuple[float, float, float, float]:
        if not op.runs(batch):
            return 0.0, 0.0, 0.0, 0.0
        work = op.work(batch)
        memory, compute, link = use_of(work, device)
        seconds = 0.0 if op.spec.depends == CONTEXT else placement.cost(name, work).seconds
        return count * memory, count * compute, count * link, count * seconds

    return at


def use_of(work: Work, device: Device) -> tuple[float, float, float]:
    """Seconds at full bandwidth, seconds at peak arithmetic, and bytes sent, of ``work``.

    What a cache delivers of keys that decodes share does not count for memory. Arithmetic in a
    format the device has no peak for counts at its slowest.
    """
    moved = work.bytes_read + work.bytes_written - near_bytes(work, device.cache)
    memory = moved / device.memory.bandwidth
    if isinstance(work, CollectiveWork):
        return memory, 0.0, work.payload_bytes
    peak = device.peak_flops.get(work.dtype) or min(device.peak_flops.values())
    return memory, work.flops / peak, 0.0


def _probes(inside: int) -> Iterator[tuple[tuple[tuple[int, int], ...], int, int]]:
    """Prefills, decodes and context of each, with contexts and chunks up to ``inside``."""
    new, context = max(2, inside), max(1, inside)
    yield (), 1, context
    yield (), 3, max(1, context // 2)
    yield ((new, 0),), 0, 0
    yield ((2, 0),), 0, 0
    yield ((new, context),), 0, 0
    yield ((2, context), (new, 0)), 0, 0
    yield ((2, 0), (2, 0), (3, context)), 0, 0
    yield ((new, 0),), 2, context


def _probe(prefills: tuple[tuple[int, int], ...], decodes: int, context: int) -> BatchShape:
    contexts = np.full(decodes, context)
    return BatchShape(prefills, decodes, decodes * context, context, contexts)


def _knots(most: float) -> Values:
    knots = [float(n) for n in range(1, _DENSE + 1)]
    while knots[-1] < most:
        knots.append(float(round(knots[-1] * _STEP)))
    return np.array(knots)
