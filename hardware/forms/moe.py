"""Routed experts: grouped products whose rows are dealt to experts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from servesim.graph.dtypes import bytes_per_element
from servesim.graph.work import MoeWork
from servesim.hardware.forms.machine import Machine, blended_max, waves

#: Rows (pairs of one expert) a tile may have, and its columns.
TILE_ROWS = (16, 32, 64, 128)
TILE_COLUMNS = 128


@dataclass(frozen=True, slots=True)
class MoeForm:
    """``launch + tokens·top_k·pair/cores + least over tiles of blended_max(tiles, weights)``.

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
        skew: power of the number of expert-parallel ranks by which the busiest of them exceeds
            the mean load when experts are not drawn uniformly.
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
    skew: float

    def seconds(self, work: MoeWork, machine: Machine) -> float:
        """Time of ``work``."""
        if work.pairs <= 0.0 or work.touched <= 0.0:
            return 0.0
        pairs, touched = work.pairs, work.touched
        if work.distribution not in ("uniform", "balanced"):
            ranks = max(1.0, work.tokens * work.top_k / pairs)
            pairs *= math.pow(ranks, self.skew)
        width = bytes_per_element(work.dtype)
        weight_width = bytes_per_element(work.weight)
        load = pairs / touched
        products = (
            ((work.matrices - 1) * work.intermediate, work.hidden),
            (work.hidden, work.intermediate),
        )
        per_flop = machine.cores / (self.compute * machine.flops)
        per_byte = machine.cores / (self.feed * machine.bandwidth)
        best = math.inf
        for rows in TILE_ROWS:
            blocks = touched * _blocks(load, rows)
            step = max(
                2.0 * rows * TILE_COLUMNS * per_flop,
                (rows * width + TILE_COLUMNS * weight_width) * per_byte,
            )
            time = 0.0
            for n, k in products:
                tiles = blocks * math.ceil(n / TILE_COLUMNS)
                time += waves(tiles / machine.cores, self.smoothing) * (step * k + self.tile)
            best = min(best, time)
        memory = touched * work.expert_bytes / (self.memory * machine.bandwidth)
        dealt = work.tokens * work.top_k  # on every rank: those of other ranks' experts count too
        moving = dealt * self.pair * work.hidden * width / 1024.0 / machine.cores
        fixed = self.launch + moving + touched * self.expert
        return fixed + blended_max(best, memory, self.sharpness)


def _blocks(load: float, rows: int) -> float:
    """Expected row blocks of an expert with about ``load`` pairs: half a block is lost."""
    if load <= rows:
        return 1.0 + 0.5 * max(0.0, load / rows - 0.5)
    return load / rows + 0.5 * (1.0 - 0.5 * rows / load)
