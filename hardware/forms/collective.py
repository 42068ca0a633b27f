"""Collectives: a protocol of low latency for small payloads, one of high bandwidth for large."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from servesim.hardware.collectives import WIRE

#: Payload whose messages are long enough for the low-latency protocol's full set of channels.
RAMP_BYTES = 16 * 2**10
#: Payload at which ``bulk_byte`` is given.
BULK_BYTES = 32 * 2**20


@dataclass(frozen=True)
class CollectiveForm:
    """``latency + ramp·S/(S + 16 KiB) + byte·S`` below the switch, for a payload of S bytes;
    ``bulk_latency + bulk_byte·S·(S / 32 MiB)^bend`` from there on.

    In NCCL the first is LL or LL128, the second Simple; in vLLM's own all-reduce, one-shot and
    two-shot. What depends on the ranks is given for some numbers of them: between these, and
    beyond, latencies and ``byte`` go on linearly in the hops (ranks - 1), ``bulk_byte`` in what
    each link carries.

    Attributes:
        operation: one of ``WIRE``.
        latency, bulk_latency: seconds by ranks.
        byte, bulk_byte: seconds a byte by ranks.
        ramp: seconds more once payloads fill all channels.
        switch: bytes from which two ranks take the second protocol; others from ``switch·√hops``
            on, as longer rings keep low latency for longer. 0: as vLLM's own all-reduce does.
        bend: how much better large payloads use the link.
        most_bytes: the largest payload that was measured.
    """

    operation: str
    latency: Mapping[int, float]
    byte: Mapping[int, float]
    ramp: float = 0.0
    switch: float = 0.0
    bulk_latency: Mapping[int, float] = field(default_factory=dict)
    bulk_byte: Mapping[int, float] = field(default_factory=dict)
    bend: float = 0.0
    most_bytes: float = math.inf

    def at(self, ranks: int, payload_bytes: float) -> float:
        """Seconds for any number of ranks of at least two."""
        if self.is_bulk(ranks, payload_bytes):
            byte = between(self.bulk_byte, ranks, WIRE[self.operation])
            size = payload_bytes * math.pow(payload_bytes / BULK_BYTES, self.bend)
            return between(self.bulk_latency, ranks, hops) + byte * size
        time = between(self.latency, ranks, hops)
        time += self.ramp * payload_bytes / (payload_bytes + RAMP_BYTES)
        return time + between(self.byte, ranks, hops) * payload_bytes

    def is_bulk(self, ranks: int, payload_bytes: float) -> bool:
        """Whether such a payload goes by the protocol for large ones."""
        return payload_bytes >= switch_bytes(self.switch, ranks)

    def covers(self, ranks: int, payload_bytes: float) -> bool:
        """Whether ranks and payload lie within what was measured."""
        return self.spans(ranks) and payload_bytes <= self.most_bytes

    def spans(self, ranks: int) -> bool:
        """Whether the ranks lie within what was measured."""
        known = {**self.latency, **self.bulk_latency}
        return min(known) <= ranks <= max(known)


def switch_bytes(switch: float, ranks: int) -> float:
    """Payload from which the second protocol is taken (``CollectiveForm.switch``).

    vLLM's all-reduce (csrc/custom_all_reduce.cuh): one-shot for two ranks, for up to four below
    512 KiB, for up to eight below 256 KiB.
    """
    if switch:
        return switch * math.sqrt(hops(ranks))
    return math.inf if ranks <= 2 else 512.0 * 2**10 if ranks <= 4 else 256.0 * 2**10


def between(values: Mapping[int, float], ranks: int, axis: Callable[[int], float]) -> float:
    """``values`` by ranks at any number of them: linear in ``axis``, never negative."""
    if ranks in values:
        return values[ranks]
    known = sorted(values)
    if len(known) == 1:
        return values[known[0]]
    i = min(max(bisect_left(known, ranks), 1), len(known) - 1)
    low, high = known[i - 1], known[i]
    share = (axis(ranks) - axis(low)) / (axis(high) - axis(low))
    return max(0.0, values[low] + share * (values[high] - values[low]))


def hops(ranks: int) -> float:
    """Steps of a ring."""
    return ranks - 1.0
