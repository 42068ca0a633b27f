"""Routed experts: grouped products whose rows are dealt to experts."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

from servesim.errors import InputError, UnknownNameError
from servesim.graph.dtypes import bytes_per_element
from servesim.graph.work import MoeWork
from servesim.hardware.forms.machine import Machine, blended_max, waves
from servesim.hardware.forms.surface import Knots
from servesim.hardware.forms.tiling import DEALT, TILE_COLUMNS, TILINGS, blocks

#: Rows below which a tile counts as narrow.
NARROW = 16
#: Powers of two of tokens and of the width of an expert at which ``MoeForm.by_tokens`` is given.
TOKENS = Knots((0, 3, 6, 9, 13), (6, 9, 13))
#: How sharply a tile's arithmetic and its loads hide each other.
_OVERLAP = 4.0


@dataclass(frozen=True, slots=True)
class MoeForm:
    """``(launch + pairs + experts + blended_max(tiles, weights)) · e^surface``.

    ``work.pairs`` and ``touched`` are those of the rank in question, the busiest one where ranks
    differ.

    Attributes:
        launch: seconds of routing, sorting and two empty grouped products.
        pair: seconds a core spends on a (token, expert) pair beside its products (gather,
            activation, weighted sum), for a kilobyte of what lies between them in 16 bits.
        memory: share of peak bandwidth that streaming the touched experts' weights reaches.
        compute: share of peak arithmetic inside a tile.
        feed: bytes/s at which all cores load operands, as a multiple of bandwidth.
        tile: seconds a tile takes beside its main loop.
        sharpness: how sharply products hide the streaming of weights, or it them.
        tiling: what chooses the rows and columns of a tile, one of ``TILINGS``.
        store: seconds a core takes to store a row of ``TILE_COLUMNS``, of a tile or of zeros.
        expert: seconds each touched expert adds over all cores.
        alone: shares of a core's time that a tile takes at least: with no others on its core, it
            hides its loads less.
        smoothing: as for dense products.
        least: rows that a tile of fewer computes all the same.
        narrow, crowd: of the time of other tiles, what one of fewer than ``NARROW`` rows takes, and
            what each pair of its expert adds; no more than all of it.
        tuned: time of a tile's main loop where a library has settings tuned on the device, of that
            with its defaults. There, tiles have about the rows that an expert gets, those of them
            that take the least time, not those that the tiling chooses.
        tuned_for: where it has: experts on a rank x their width, with spaces between.
        spill: time that loading a row takes more once inputs exceed the last-level cache, of that
            before; grows with the share that does.
        by_tokens: log of what is left of measured times, at ``TOKENS``. Empty: nothing.

    Raises:
        UnknownNameError: there is no such tiling.
        InputError: ``by_tokens`` has not one value for each knot, or ``tuned_for`` lists no pairs.
    """

    launch: float
    pair: float
    memory: float
    compute: float
    feed: float
    tile: float
    sharpness: float
    tiling: str = "fixed_64"
    store: float = 0.0
    expert: float = 0.0
    alone: float = 1.0
    smoothing: float = 0.0
    least: float = 0.0
    narrow: float = 1.0
    crowd: float = 0.0
    tuned: float = 1.0
    tuned_for: str = ""
    spill: float = 0.0
    by_tokens: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.tiling not in TILINGS:
            raise UnknownNameError("tiling", self.tiling, TILINGS)
        TOKENS.require("by_tokens", self.by_tokens)
        _sizes(self.tuned_for)

    def lent(self, pace: float = 1.0) -> MoeForm:
        """The form on another device: a library looks tuned settings up by the device's name.

        Kernels that unpack weights do so at the pace of a core's own units, whatever its matrix
        units could take: INT4 of H100, H200 and B200 reach 0.96, 0.95 and 1.2 TFLOP/s a core, which
        is 0.13, 0.13 and 0.08 of peak.

        Args:
            pace: peak arithmetic in 16 bits of a core here, of that of one there.
        """
        unpacks = TILINGS[self.tiling].unpacks
        compute = min(1.0, self.compute * pace) if unpacks else self.compute
        return replace(self, tuned_for="", compute=compute)

    def seconds(self, work: MoeWork, machine: Machine, resident: float = 0.0) -> float:
        """Time of ``work``.

        ``resident`` is the share of the touched weights found in the last-level cache: 0 in
        serving, where other layers ran in between.
        """
        if work.pairs <= 0.0 or work.touched <= 0.0:
            return 0.0
        weights = work.touched * work.expert_bytes
        far = (1.0 - resident) * weights / machine.bandwidth
        near = resident * weights / (machine.cache_bandwidth or machine.bandwidth)
        dealt = work.tokens * work.top_k  # on every rank: those of other ranks' experts count too
        between = 2.0 * (work.hidden + (work.matrices - 1) * work.intermediate)
        moving = dealt * self.pair * between / 1024.0 / machine.cores
        fixed = self.launch + moving + work.touched * self.expert
        tiles = self._tiles(work, machine)
        time = fixed + blended_max(tiles, far / self.memory + near, self.sharpness)
        if not self.by_tokens:
            return time
        # However the surface goes on beyond what was measured, memory is no faster than its peak.
        floor = far - machine.cache_bytes / machine.bandwidth
        return max(floor, time * math.exp(TOKENS.at(self.by_tokens, *surface_sizes(work))))

    def _tiles(self, work: MoeWork, machine: Machine) -> float:
        """Seconds of the tiles of both products, and of zeros for experts elsewhere."""
        cuts = TILINGS[self.tiling].shares(work)
        if (work.experts, work.intermediate) not in _sizes(self.tuned_for):
            return sum(
                share * self._cut(work, machine, cut.rows, cut.columns, 1.0) for share, cut in cuts
            )
        return min(
            sum(
                share * self._cut(work, machine, dealt.rows, cut.columns, self.tuned)
                for share, cut in cuts
            )
            for dealt in DEALT.near(work)
        )

    def _cut(self, work: MoeWork, machine: Machine, rows: int, columns: int, tuned: float) -> float:
        """Seconds of all tiles if they have so many ``rows`` and ``columns``."""
        tiling = TILINGS[self.tiling]
        load = work.pairs / work.touched
        each = blocks(load, rows, work.distribution)
        if tiling.stripes and rows < self.least:
            each = 1.0 + (each - 1.0) * rows / self.least
        tall = work.touched * each
        step = self._step(work, machine, rows, columns) * tuned
        if rows < NARROW:
            step *= min(1.0, self.narrow + self.crowd * load)
        store = rows * self.store / TILE_COLUMNS  # for a column
        smoothing = 1.0 if tiling.stripes else self.smoothing
        zeros = 0.0
        if tiling.zeros:
            zeros = tall * max(0.0, work.tokens * work.top_k / work.pairs - 1.0)
        time = 0.0
        for n, k in (
            ((work.matrices - 1) * work.intermediate, work.hidden),
            (work.hidden, work.intermediate),
        ):
            units = tall * math.ceil(n / columns) / machine.cores
            rounds = max(self.alone, waves(units, smoothing))
            time += rounds * (step * k + self.tile + store * columns)
            time += zeros * store * n / machine.cores
        return time

    def _step(self, work: MoeWork, machine: Machine, rows: int, columns: int) -> float:
        """Seconds of a tile for each element of its inner dimension."""
        flops = 2.0 * max(rows, self.least) * columns
        width = bytes_per_element(work.dtype)
        loaded = rows * width
        if self.spill:
            inputs = work.tokens * work.hidden * width
            loaded *= 1.0 + self.spill * max(0.0, 1.0 - machine.cache_bytes / inputs)
        loaded += columns * bytes_per_element(work.weight)
        arithmetic = flops / (self.compute * machine.flops)
        loads = loaded / (self.feed * machine.bandwidth)
        return machine.cores * blended_max(arithmetic, loads, _OVERLAP)


@lru_cache
def _sizes(text: str) -> frozenset[tuple[int, int]]:
    """``8x1792 16x3584`` as pairs.

    Raises:
        InputError: a part of it is no such pair.
    """
    found = []
    for pair in text.split():
        experts, _, width = pair.partition("x")
        if not (experts.isdecimal() and width.isdecimal()):
            raise InputError(f"tuned_for must list experts x width, as 8x1792, not {pair!r}")
        found.append((int(experts), int(width)))
    return frozenset(found)


def surface_sizes(work: MoeWork) -> tuple[float, float]:
    """Where ``work`` lies on ``MoeForm.by_tokens``: tokens, and width of an expert."""
    return work.tokens, work.intermediate
