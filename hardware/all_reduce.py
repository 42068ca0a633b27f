"""Which kernel vLLM reduces with, by generation of the devices, ranks and payload.

vllm/distributed/device_communicators: ``custom_all_reduce.py``, ``symm_mem.py`` and
``all_reduce_utils.py`` (0.24), in the order they are asked. Symmetric memory needs a switch that
multicasts; with it the engine's own kernel gives way earlier than without.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

#: The engine's own kernels, and those on PyTorch's symmetric memory, as device files name them.
CUSTOM, SYMMETRIC = "custom_all_reduce", "symmetric_all_reduce"
_MIB = 2**20
#: Payload from which vLLM leaves its own all-reduce where nothing else is said.
CUSTOM_LIMIT = 8 * _MIB


@dataclass(frozen=True, slots=True)
class Limits:
    """Payloads in bytes up to which a kernel is taken, by ranks; not at all for other ranks.

    Attributes:
        custom: the engine's own (one-shot, two-shot), for less than this.
        symmetric: through symmetric memory (two-shot, multimem), up to this, where the engine's
            own is not taken.
    """

    custom: Mapping[int, float]
    symmetric: Mapping[int, float] = field(default_factory=dict)

    def kernel(self, ranks: int, payload_bytes: float) -> str | None:
        """The engine's kernel; None for the library's (NCCL)."""
        if payload_bytes < self.custom.get(ranks, 0.0):
            return CUSTOM
        return SYMMETRIC if payload_bytes <= self.symmetric.get(ranks, 0.0) else None


def counted(operation: str) -> str:
    """The collective that an engine's kernel is one of; others are their own."""
    return "all_reduce" if operation in (CUSTOM, SYMMETRIC) else operation


#: Without symmetric memory.
PLAIN = Limits(dict.fromkeys((2, 4, 6, 8), CUSTOM_LIMIT))


def _limits(custom: tuple[float, ...], symmetric: tuple[float, ...]) -> Limits:
    """Of 2, 4, 6 and 8 ranks, in MiB."""

    def by_ranks(sizes: tuple[float, ...]) -> dict[int, float]:
        return {ranks: size * _MIB for ranks, size in zip((2, 4, 6, 8), sizes, strict=True)}

    return Limits(by_ranks(custom), by_ranks(symmetric))


#: By what a device file calls the generation (compute capability 9.0, 10.0 and 10.3).
GENERATIONS: Mapping[str, Limits] = {
    "hopper": _limits((8, 8, 0.5, 0.25), (64, 32, 64, 64)),
    "blackwell": _limits((2, 2, 1, 1), (8, 32, 128, 128)),
    "blackwell_ultra": _limits((4, 4, 8, 4), (4, 32, 32, 64)),
}


def limits_of(generation: str, multicast: bool) -> Limits:
    """The limits among devices whose link can ``multicast``, or cannot.

    ``generation`` is one of ``GENERATIONS``, or empty for any other.
    """
    return GENERATIONS[generation] if multicast and generation else PLAIN
