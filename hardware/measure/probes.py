"""Peaks of a device: arithmetic, bandwidth of memory and caches, what launching nothing costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from servesim.hardware.measure.bench import Room
from servesim.hardware.measure.kernels.tensors import copies, random
from servesim.hardware.measure.timer import Call

#: Edge of the square products that peak arithmetic is read off.
_EDGES = {"cpu": (512, 1024), "cuda": (4096, 8192)}


@dataclass(frozen=True, slots=True)
class Probe:
    """A kernel of known size.

    Attributes:
        what: ``arithmetic`` (amount in FLOP), ``read`` or ``copy`` (amount in bytes moved), or
            ``launch`` (amount 0).
        operand: edge of the product, or bytes of the buffer.
    """

    what: str
    operand: int
    amount: float

    @property
    def name(self) -> str:
        """Its name in a store."""
        return f"probe {self.what} {self.operand}"

    def calls(self, room: Room) -> Sequence[Call]:
        """The kernel on one set of operands, which stays in whatever cache holds it."""
        import torch

        if self.what == "launch":
            return [random((1,), "fp32", room.device).abs_]
        if self.what == "arithmetic":
            a, b = copies(random((self.operand,) * 2, "bf16", room.device), 2)
            return [partial(torch.mm, a, b)]
        source = random((self.operand // 4,), "fp32", room.device)
        if self.what == "read":
            return [source.sum]
        return [partial(torch.empty_like(source).copy_, source)]


def probes(room: Room, cache_bytes: float) -> list[Probe]:
    """Those worth running on a device with so large a last-level cache."""
    found = [Probe("launch", 1, 0.0)]
    found += [Probe("arithmetic", n, 2.0 * n**3) for n in _EDGES[room.device]]
    far = int(max(4 * cache_bytes, 64e6))
    near = int(max(cache_bytes / 4, 256e3))
    for size in (near, far):
        found += [Probe("read", size, float(size)), Probe("copy", size // 2, float(size))]
    return found
