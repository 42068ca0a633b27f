"""Routed experts: grouped products whose rows are dealt to experts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from servesim.graph.dtypes import bytes_per_element
from servesim.graph.work import MoeWork
from servesim.hardware.forms.machine import Machine, blended_max, waves
from servesim.hardware.forms.surface import Knots

#: Rows (pairs of one expert) a tile may have, and its columns.
TILE_ROWS = (8, 16, 32, 64, 128)
TILE_COLUMNS = 128

#: Powers of two at which ``MoeForm.by_load`` is given: pairs of a touched expert, and pairs of all
#: ranks for each expert held, which libraries choose kernels by.
LOAD = Knots((0, 2, 4, 6, 9), (-3, 1, 4, 8))
#: The same for ``by_tokens``: tokens, and width of an expert. Libraries change kernels past 64.
TOKENS = Knots((0, 3, 6, 6.2, 8, 10, 13), (6, 8, 10, 13))


@dataclass(frozen=True, slots=True)
class MoeForm:
    """``(launch + pairs + least over tiles of blended_max(tiles, weights)) · e^surfaces``.

    ``work.pairs`` and ``touched`` are those of the rank in question, the busiest one where ranks
    differ.

    Attributes:
        launch: seconds of routing, sorting and two empty grouped products.
        pair: seconds a core spends on a (token, expert) pair beside its products (gather,
            activation, weighted sum), for a kilobyte of hidden state.
        memory: share of peak bandwidth that streaming the touched experts' weights reaches.
        compute: share of peak arithmetic inside a tile.
        feed: bytes/s at which all cores load operands, as a multiple of bandwidth.
        tile: seconds a tile takes beside its main loop.
        expert: seconds each touched expert adds over all cores.
        sharpness, smoothing: as for dense products.
        by_load, by_tokens: log of what is left of measured times, at ``LOAD`` and ``TOKENS``:
            steps of a library from one kernel to the next, smoothed. Empty: nothing.
    """

    launch: float
    pair: float
    memory: float
    compute: float
    feed: float
    tile: float
    expert: float
    sharpness: float
    smoothing: float
    by_load: tuple[float, ...] = ()
    by_tokens: tuple[float, ...] = ()

    def seconds(self, work: MoeWork, machine: Machine) -> float:
        """Time of ``work``."""
        if work.pairs <= 0.0 or work.touched <= 0.0:
            return 0.0
        streamed = work.touched * work.expert_bytes / machine.bandwidth
        dealt = work.tokens * work.top_k  # on every rank: those of other ranks' experts count too
        width = bytes_per_element(work.dtype)
        moving = dealt * self.pair * work.hidden * width / 1024.0 / machine.cores
        fixed = self.launch + moving + work.touched * self.expert
        products = blended_max(self._tiles(work, machine), streamed / self.memory, self.sharpness)
        time = fixed + products
        if not self.by_load:
            return time
        by_load, by_tokens = surface_sizes(work)
        surfaces = LOAD.at(self.by_load, *by_load) + TOKENS.at(self.by_tokens, *by_tokens)
        # However a surface goes on beyond what was measured, memory is no faster than its peak.
        floor = streamed - machine.cache_bytes / machine.bandwidth
        return max(floor, time * math.exp(surfaces))

    def _tiles(self, work: MoeWork, machine: Machine) -> float:
        """Seconds of the tiles of both products, with the rows that take least."""
        width, weight_width = bytes_per_element(work.dtype), bytes_per_element(work.weight)
        load = work.pairs / work.touched
        products = (
            ((work.matrices - 1) * work.intermediate, work.hidden),
            (work.hidden, work.intermediate),
        )
        per_flop = machine.cores / (self.compute * machine.flops)
        per_byte = machine.cores / (self.feed * machine.bandwidth)
        best = math.inf
        for rows in TILE_ROWS:
            blocks = work.touched * _blocks(load, rows)
            step = max(
                2.0 * rows * TILE_COLUMNS * per_flop,
                (rows * width + TILE_COLUMNS * weight_width) * per_byte,
            )
            time = 0.0
            for n, k in products:
                tiles = blocks * math.ceil(n / TILE_COLUMNS)
                time += waves(tiles / machine.cores, self.smoothing) * (step * k + self.tile)
            best = min(best, time)
        return best


def surface_sizes(work: MoeWork) -> tuple[tuple[float, float], tuple[float, float]]:
    """Pairs of a touched expert and pairs of all ranks for each held; tokens and width."""
    dealt = work.tokens * work.top_k / work.experts
    return (work.pairs / work.touched, dealt), (work.tokens, work.intermediate)


def _blocks(load: float, rows: int) -> float:
    """Expected row blocks of an expert with about ``load`` pairs: half a block is lost."""
    if load <= rows:
        return 1.0 + 0.5 * max(0.0, load / rows - 0.5)
    return load / rows + 0.5 * (1.0 - 0.5 * rows / load)
