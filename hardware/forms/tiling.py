"""How kernels of routed experts cut the rows of an expert into tiles."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from servesim.graph.work import MoeWork

#: Columns of a tile where nothing else is known, and to which times of tiles refer.
TILE_COLUMNS = 128
#: From the last size that takes one tile to that which is all of the next one: sizes in tables are
#: as far apart, and none of them show cliffs in between. There, both tiles count.
RAMP = 1.25
_HEAVY_FULL, _HEAVY_ROUND = 0.7, 0.03  # of a power law's loads: see ``_heavy``


@dataclass(frozen=True, slots=True)
class Cut:
    """A size of tiles, and up to where a library takes it.

    Attributes:
        most: the last of what the library goes by.
        rows, columns: of a tile.
    """

    most: float
    rows: int
    columns: int = TILE_COLUMNS


def _tokens(work: MoeWork) -> float:
    return work.tokens


def _tokens_of_expert(work: MoeWork) -> float:
    return work.tokens / work.experts


def _dealt(work: MoeWork) -> float:
    """What an expert of the rank gets on average if all ``top_k`` fall here."""
    return work.tokens * work.top_k / work.experts


@dataclass(frozen=True, slots=True)
class Tiling:
    """What chooses the tiles of a library's kernels.

    Attributes:
        cuts: the tiles, ascending in what the library goes by.
        size: what that is.
        zeros: whether kernels know the experts of all ranks, and write zeros for those elsewhere.
        unpacks: whether kernels turn weights into the format of activations before they multiply.
        stripes: whether cores take equal stripes of all tiles, one after the other: tiles of an
            expert share what is loaded and unpacked, so all but the first take what their rows do.
    """

    cuts: tuple[Cut, ...]
    size: Callable[[MoeWork], float] = _tokens
    zeros: bool = False
    unpacks: bool = False
    stripes: bool = False

    def shares(self, work: MoeWork) -> tuple[tuple[float, Cut], ...]:
        """The tiles for ``work`` with their shares: of two around where one follows the other."""
        size = self.size(work)
        place = self._place(size)
        cut = self.cuts[place]
        if place == 0:
            return ((1.0, cut),)
        before = self.cuts[place - 1]
        share = math.log(size / before.most) / math.log(RAMP)
        return ((1.0, cut),) if share >= 1.0 else ((1.0 - share, before), (share, cut))

    def near(self, work: MoeWork) -> tuple[Cut, ...]:
        """The tiles for ``work`` and their neighbours."""
        place = self._place(self.size(work))
        return self.cuts[max(0, place - 1) : place + 2]

    def _place(self, size: float) -> int:
        return next(i for i, cut in enumerate(self.cuts) if size <= cut.most)


def _fixed(rows: int) -> Tiling:
    return Tiling((Cut(math.inf, rows),))


#: A tile that holds what an expert gets.
DEALT = Tiling((Cut(16, 16), Cut(32, 32), Cut(64, 64), Cut(math.inf, 128)), _dealt)
#: By what chooses: vLLM's own settings of its Triton kernel (since 0.17; with a scale for each
#: block; up to 0.14), those of its Marlin kernel (the first of which nine tenths are enough),
#: TensorRT-LLM's kernels, which FlashInfer tries from half of what each expert of the rank would
#: get (the least of those tried wins; 32 rows at most for activations of 16 bits), or always the
#: same rows, as CUTLASS.
TILINGS: dict[str, Tiling] = {
    "triton": Tiling(
        (Cut(32, 16, 64), Cut(64, 32, 64), Cut(96, 32), Cut(512, 64), Cut(math.inf, 128)),
        zeros=True,
    ),
    "triton_block": Tiling((Cut(64, 16), Cut(math.inf, 64)), zeros=True),
    "triton_early": Tiling((Cut(1, 16, 32), Cut(math.inf, 64, 64)), _tokens_of_expert, zeros=True),
    "marlin": Tiling(
        (*(Cut(0.9 * rows, rows) for rows in (8, 16, 32, 48)), Cut(math.inf, 64)),
        _dealt,
        unpacks=True,
        stripes=True,
    ),
    "trtllm": Tiling(
        (*(Cut(2.0 * rows, rows) for rows in (8, 16, 32, 64)), Cut(math.inf, 128)), _dealt
    ),
    "trtllm_32": Tiling((Cut(16, 8), Cut(32, 16), Cut(math.inf, 32)), _dealt, unpacks=True),
    "fixed_32": _fixed(32),
    "fixed_64": _fixed(64),
    "fixed_128": _fixed(128),
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
