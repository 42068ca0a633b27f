"""How kernels of routed experts cut the rows of an expert into tiles."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from servesim.graph.work import MoeWork

#: Columns of a tile where nothing else is known, and to which times of tiles refer.
TILE_COLUMNS = 128
_MOST_ROWS = 128
_HEAVY_FULL, _HEAVY_ROUND = 0.7, 0.03  # of a power law's loads: see ``_heavy``


def _step(value: float, steps: Sequence[tuple[float, int]], last: int) -> int:
    """Rows of the first step that ``value`` does not exceed."""
    return next((rows for most, rows in steps if value <= most), last)


def _power_of_two(value: float) -> int:
    """The least power of two that is no less than ``value``."""
    return 1 << max(0, math.ceil(math.log2(value) - 1e-9))


def dealt_rows(work: MoeWork, least: int) -> int:
    """Rows of a tile that holds what an expert gets on average, if all ``top_k`` fall here."""
    return min(max(_power_of_two(work.tokens * work.top_k / work.experts), least), _MOST_ROWS)


def _triton(work: MoeWork) -> int:
    return _step(work.tokens, ((32, 16), (96, 32), (512, 64)), 128)


def _triton_columns(work: MoeWork) -> int:
    return 64 if work.tokens <= 64 else 128


def _triton_block(work: MoeWork) -> int:
    return 16 if work.tokens <= 64 else 64


def _triton_early(work: MoeWork) -> int:
    return 16 if work.tokens <= work.experts else 64


def _triton_early_columns(work: MoeWork) -> int:
    return 32 if work.tokens <= work.experts else 64


def _marlin(work: MoeWork) -> int:
    dealt = work.tokens * work.top_k / work.experts
    return next((rows for rows in (8, 16, 32, 48) if dealt / rows < 0.9), 64)


def _trtllm(work: MoeWork) -> int:
    half = _power_of_two(work.tokens * work.top_k / work.experts) // 2
    return min(max(half, 8), _MOST_ROWS)


@dataclass(frozen=True, slots=True)
class Tiling:
    """What chooses the tiles of a library's kernels.

    Attributes:
        rows, columns: of a tile.
        zeros: whether kernels know the experts of all ranks, and write zeros for those elsewhere.
    """

    rows: Callable[[MoeWork], int]
    columns: Callable[[MoeWork], int] = lambda _: TILE_COLUMNS
    zeros: bool = False


#: By what chooses: vLLM's own settings of its Triton kernel (since 0.17; with a scale for each
#: block; up to 0.14), those of its Marlin kernel, TensorRT-LLM's kernels, which FlashInfer tries
#: from half of what each expert of the rank would get (the least of those tried wins), or always
#: the same rows, as CUTLASS.
TILINGS: dict[str, Tiling] = {
    "triton": Tiling(_triton, _triton_columns, zeros=True),
    "triton_block": Tiling(_triton_block, zeros=True),
    "triton_early": Tiling(_triton_early, _triton_early_columns, zeros=True),
    "marlin": Tiling(_marlin),
    "trtllm": Tiling(_trtllm),
    "fixed_32": Tiling(lambda _: 32),
    "fixed_64": Tiling(lambda _: 64),
    "fixed_128": Tiling(lambda _: 128),
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
