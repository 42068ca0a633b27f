"""Collectives: a protocol of low latency for small payloads, one of high bandwidth for large."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from servesim.hardware.collectives import WIRE

#: Payload whose messages are long enough for half of the low-latency protocol's channels: of 4, 16
#: and 64 KiB that with the least errors held out (median over the calibrated devices).
RAMP_BYTES = 16 * 2**10
#: Payload at which ``bulk_byte`` is given.
BULK_BYTES = 32 * 2**20


@dataclass(frozen=True)
class CollectiveForm:
    """``latency + ramp·S/(S + 16 KiB) + byte·S`` below the switch, for a payload of S bytes;
    ``bulk_latency + bulk_byte·S·(S / 32 MiB)^bend`` from there on.

    In NCCL the first is LL or LL128, the second Simple; in vLLM's own all-reduce, one-shot and
    two-shot. Nothing below the switch takes longer than a payload at the switch, so that more bytes
    are never cheaper. What depends on the ranks is given for some numbers of them: between these,
    and beyond, latencies and ``byte`` go on linearly in the hops (ranks - 1), ``bulk_byte`` in what
    each link carries; beyond the most, nothing falls.

    Attributes:
        operation: one of ``WIRE``.
        latency, bulk_latency: seconds by ranks.
        byte, bulk_byte: seconds a byte by ranks.
        ramp: seconds more once payloads fill all channels.
        switch: bytes from which two ranks take the second protocol; others from ``switch·√hops``
            on, as longer rings keep low latency for longer: of the powers 0, 1/2 and 1 of the hops
            that with the least errors held out (90th percentile over the calibrated devices). 0: as
            vLLM's own all-reduce does.
        bend: how much better large payloads use the link, up to ``most_bytes``.
        most_bytes: the largest payload that was measured.
    """

    operation: str
    latency: Mapping[int, float]
    byte: Mapping[int, float]
    ramp: float = 0.0
    switch: float = math.inf
    bulk_latency: Mapping[int, float] = field(default_factory=dict)
    bulk_byte: Mapping[int, float] = field(default_factory=dict)
    bend: float = 0.0
    most_bytes: float = math.inf

    def at(self, ranks: int, payload_bytes: float) -> float:
        """Seconds for any number of ranks of at least two."""
        edge = self._edge(ranks)
        if payload_bytes >= edge:
            return self._bulk(ranks, payload_bytes)
        time = self._low(ranks, payload_bytes)
        return min(time, self._bulk(ranks, edge)) if edge < math.inf else time

    def _edge(self, ranks: int) -> float:
        """Payload from which the second protocol is taken; of more ranks, as of the most known."""
        if not self.bulk_byte:
            return math.inf
        return switch_bytes(self.switch, min(ranks, max(self._known())))

    def _low(self, ranks: int, payload_bytes: float) -> float:
        time = between(self.latency, ranks, hops)
        time += self.ramp * payload_bytes / (payload_bytes + RAMP_BYTES)
        return time + between(self.byte, ranks, hops) * payload_bytes

    def _bulk(self, ranks: int, payload_bytes: float) -> float:
        byte = between(self.bulk_byte, ranks, WIRE[self.operation])
        used = math.pow(min(payload_bytes, self.most_bytes) / BULK_BYTES, self.bend)
        return between(self.bulk_latency, ranks, hops) + byte * payload_bytes * used

    def covers(self, ranks: int, payload_bytes: float) -> bool:
        """Whether ranks and payload lie within what was measured."""
        return self.spans(ranks) and payload_bytes <= self.most_bytes

    def spans(self, ranks: int) -> bool:
        """Whether the ranks lie within what was measured."""
        known = self._known()
        return min(known) <= ranks <= max(known)

    def _known(self) -> Mapping[int, float]:
        return {**self.latency, **self.bulk_latency}


def switch_bytes(switch: float, ranks: int) -> float:
    """Payload from which the second protocol is taken (``CollectiveForm.switch``).

    vLLM's all-reduce (csrc/custom_all_reduce.cuh): one-shot for two ranks, for up to four below
    512 KiB, for up to eight below 256 KiB.
    """
    if switch:
        return switch * math.sqrt(hops(ranks))
    return math.inf if ranks <= 2 else 512.0 * 2**10 if ranks <= 4 else 256.0 * 2**10


def between(values: Mapping[int, float], ranks: int, axis: Callable[[int], float]) -> float:
    """``values`` by ranks at any number of them: linear in ``axis``.

    Never negative, and beyond the most ranks never less than there.
    """
    if ranks in values:
        return values[ranks]
    known = sorted(values)
    if len(known) == 1:
        return values[known[0]]
    i = min(max(bisect_left(known, ranks), 1), len(known) - 1)
    low, high = known[i - 1], known[i]
    spread = axis(high) - axis(low)
    share = (axis(ranks) - axis(low)) / spread if spread else 0.0
    least = values[high] if ranks > high else 0.0
    return max(least, values[low] + share * (values[high] - values[low]))


def hops(ranks: int) -> float:
    """Steps of a ring."""
    return ranks - 1.0
