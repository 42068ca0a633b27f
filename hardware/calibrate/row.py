"""One measured kernel."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from servesim.graph.work import Work

#: The origin of tables measured inside a serving engine, all weights passing between two uses.
SERVING = "serving"


@dataclass(frozen=True, slots=True)
class Row:
    """A kernel's work, how long it took, and what must be known to judge it.

    Attributes:
        work: what was computed.
        seconds: measured time.
        form: the form and number format that predict it, e.g. ``gemm.bf16``.
        shape: its model geometry, e.g. ``4096x14336``; hold-outs never split one.
        origin: the table it comes from; tables measured under other software may differ by a
            constant factor from the one that stands for serving (``SERVING``).
        model: the model it was measured for, if any.
        resident: share of weights or cache the benchmark left in the last-level cache.
        regime: the part of the error table it belongs to.
        ranks: devices that share the experts, of which this is one.
        tiling: what chose the tiles of experts, where the table names kernels that tell.
    """

    work: Work
    seconds: float
    form: str
    shape: str
    origin: str = SERVING
    model: str = ""
    resident: float = 0.0
    regime: str = ""
    ranks: int = 1
    tiling: str = ""


def held_out(shape: str, share: float = 0.2) -> bool:
    """Whether all kernels of ``shape`` are kept out of fits: a fixed pseudo-random fifth.

    Kernels without a shape of their own never are.
    """
    return bool(shape) and zlib.crc32(shape.encode()) % 1000 < 1000 * share


def resident_share(cycled_bytes: float, cache_bytes: float) -> float:
    """Share found in a cache by a benchmark that cycles through ``cycled_bytes``.

    Nearly all while they fit into nine tenths of it, nearly none beyond.
    """
    if cache_bytes <= 0:
        return 0.0
    ratio = cycled_bytes / (0.9 * cache_bytes)
    return 1.0 / (1.0 + ratio**8) if ratio < 100 else 0.0
