"""How kernels of routed experts cut the rows of an expert into tiles."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from servesim.graph.work import MoeWork

_HEAVY_FULL, _HEAVY_ROUND = 0.7, 0.03  # of a power law's loads: see ``_heavy``


def _step(value: float, steps: Sequence[tuple[float, int]], last: int) -> int:
    """Rows of the first step that ``value`` does not exceed."""
    return next((rows for most, rows in steps if value <= most), last)


def _triton(work: MoeWork) -> int:
    return _step(work.tokens, ((32, 16), (96, 32), (512, 64)), 128)


def _triton_block(work: MoeWork) -> int:
    return 16 if work.tokens <= 64 else 64


def _triton_early(work: MoeWork) -> int:
    return 16 if work.tokens <= work.experts else 64


def _marlin(work: MoeWork) -> int:
    dealt = work.tokens * work.top_k / work.experts
    return next((rows for rows in (8, 16, 32, 48) if dealt / rows < 0.9), 64)


def _trtllm(work: MoeWork) -> int:
    tuned = min(1 << (work.tokens.bit_length() - 1), 4096)
    dealt = max(1.0, tuned * work.top_k / work.experts)
    return min(max(1 << math.ceil(math.log2(dealt) - 1e-9), 8), 128)


#: Rows of a tile by what chooses them: vLLM's own settings of its Triton kernel (since 0.17; with a
#: scale for each block; up to 0.14), those of its Marlin kernel, powers of two as TensorRT-LLM's
#: kernels are tuned for, or always the same.
TILINGS: dict[str, Callable[[MoeWork], int]] = {
    "triton": _triton,
    "triton_block": _triton_block,
    "triton_early": _triton_early,
    "marlin": _marlin,
    "trtllm": _trtllm,
    "fixed_32": lambda _: 32,
    "fixed_64": lambda _: 64,
    "fixed_128": lambda _: 128,
}


def blocks(load: float, rows: int, distribution: str) -> float:
    """Expected tiles of ``rows`` rows that an expert needs for about ``load`` pairs (one at least).

    ``balanced``: as many pairs for every expert, up to one. A power law: spread over orders of
    magnitude. Else pairs fall on experts at random.
    """
    if distribution == "balanced":
        whole = max(1, math.floor(load + 1e-6))
        more = max(0.0, load - whole)
        return (1.0 - more) * math.ceil(whole / rows) + more * math.ceil((whole + 1) / rows)
    if distribution.startswith("power_law"):
        return _heavy(load / rows)
    return _random(load, rows)


def _heavy(full: float) -> float:
    """Of loads drawn from a power law: one tile, beyond that ``full`` ones and most of one more.

    Within 5 % of what drawing loads of exponents 1 to 1.2 gives on average.
    """
    beyond = full + _HEAVY_FULL - 1.0
    return 1.0 + 0.5 * (beyond + math.sqrt(beyond * beyond + _HEAVY_ROUND))


def _random(load: float, rows: int) -> float:
    """Of loads about normal with a variance of ``load``: the sum of chances to exceed each tile."""
    spread = math.sqrt(load)
    if spread > 0.5 * rows:
        return max(1.0, load / rows + 0.5)
    first = max(1, math.floor((load - 4.0 * spread) / rows))
    last = math.ceil((load + 4.0 * spread) / rows)
    found = float(first)
    for tiles in range(first, last + 1):
        found += 0.5 * math.erfc((tiles * rows + 0.5 - load) / (spread * math.sqrt(2.0)))
    return found
