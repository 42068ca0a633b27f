"""Dense matrix products: tiles in waves against weights streamed from memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

from servesim.graph.dtypes import bytes_per_element
from servesim.graph.work import GemmWork
from servesim.hardware.forms.machine import Machine, blended_max, waves
from servesim.hardware.forms.surface import Knots

#: Output tiles (rows, columns) and splits of k a library chooses among.
TILES = ((16, 64), (64, 64), (64, 128), (128, 128), (64, 256), (128, 256), (256, 128))
SPLITS = (1, 2, 3, 4, 6, 8)
#: Tiles of libraries that choose by rows alone, once there are many.
_TALL_TILES = ((128, 128),)

#: What measured products leave open: fits with values of their own for each device and format
#: come no nearer to shapes kept out. Operands of all cores together and the last-level cache, as
#: multiples of bandwidth, and the blend of arithmetic and memory.
FEED, CACHE, SHARPNESS = 6.0, 2.0, 3.0

#: Powers of two of rows and columns, of rounds of 128 x 128 tiles over all cores and k, at which
#: ``GemmForm.by_columns`` and ``by_rounds`` are given.
COLUMNS = Knots((0, 6, 8, 13), (11, 15))
ROUNDS = Knots((-5, -3, -1, 2, 6), (10, 13, 16))


@dataclass(frozen=True, slots=True)
class GemmForm:
    """``e^surfaces · (launch + least over tiles, splits of blended_max(tiles, memory))``.

    Attributes:
        launch: seconds from one kernel's end to the next one's start, filling and draining.
        memory: share of peak bandwidth that streaming weights reaches.
        compute: share of peak arithmetic inside a tile.
        tile: seconds a tile takes beside its main loop.
        smoothing: share of wave quantisation that is hidden, 0 to 1.
        split: seconds a split of k adds; 0: k is never split.
        reduce: bytes/s at which partial sums are written and read, as a multiple of bandwidth.
        tall: rows beyond which a library has tiles of 128 x 128 whatever the columns; 0: it chooses
            by all sizes.
        ragged: what a row costs that is missing in the last tile, in rows (predicated loads).
        pad: seconds that padding to a multiple of 4 rows takes.
        repack: bytes/s at which inputs are copied for it, as a multiple of bandwidth; 0: they
            are not.
        quantise: bytes/s at which a kernel before it turns 16-bit inputs into the format of the
            arithmetic, as a multiple of bandwidth; 0 where inputs come in that format.
        by_columns, by_rounds: log of what is left of measured times, at ``COLUMNS`` and
            ``ROUNDS``: steps of a library from one kernel to the next, smoothed. Empty: nothing.

    Raises:
        InputError: one of these surfaces has not one value for each knot.
    """

    launch: float
    memory: float
    compute: float
    tile: float
    smoothing: float
    split: float = 0.0
    reduce: float = 1.0
    tall: float = 0.0
    ragged: float = 0.0
    pad: float = 0.0
    quantise: float = 0.0
    repack: float = 0.0
    by_columns: tuple[float, ...] = ()
    by_rounds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        COLUMNS.require("by_columns", self.by_columns)
        ROUNDS.require("by_rounds", self.by_rounds)

    def seconds(self, work: GemmWork, machine: Machine, resident: float = 0.0) -> float:
        """Time of ``work``.

        ``resident`` is the share of the weights found in the last-level cache: 0 in serving,
        where all weights of a model pass between two uses of one; up to 1 in benchmarks.
        """
        m, n, k, batch = work.m, work.n, work.k, work.batch
        width = bytes_per_element(work.dtype)
        bandwidth = machine.bandwidth
        weights = work.weight_bytes
        near = resident * weights + 0.5 * (batch * m * (k * width + 2.0 * n))
        far = weights + batch * m * (k * width + 2.0 * n) - near
        memory = far / (self.memory * bandwidth) + near / (CACHE * bandwidth)

        cores = machine.cores
        per_flop = cores / (self.compute * machine.flops)
        per_byte = cores / (FEED * bandwidth)
        weight_width = bytes_per_element(work.weight)
        partial = 8.0 * batch * m * n / (self.reduce * bandwidth)
        best = math.inf
        computed = m + self.ragged * _missing(m)
        splits = SPLITS if self.split else SPLITS[:1]
        for rows, columns in _TALL_TILES if 0.0 < self.tall < m else TILES:
            tiles = batch * math.ceil(computed / rows) * math.ceil(n / columns)
            step = max(
                2.0 * rows * columns * per_flop,
                (rows * width + columns * weight_width) * per_byte,
            )
            for split in splits:
                time = waves(tiles * split / cores, self.smoothing) * (step * k / split + self.tile)
                if split > 1:
                    time += self.split + split * partial
                best = min(best, time)
        fixed = self._before(work, bandwidth)
        time = fixed + blended_max(best, memory, SHARPNESS)
        if not self.by_columns:
            return time
        # However a surface goes on beyond what was measured, memory is no faster than its peak.
        floor = ((1.0 - resident) * weights - machine.cache_bytes) / bandwidth
        return max(floor, time * math.exp(self._surfaces(work, cores)))

    def _before(self, work: GemmWork, bandwidth: float) -> float:
        """Seconds of launching, and of bringing inputs into the format and rows of the kernel."""
        inputs = work.batch * work.m * work.k / bandwidth
        width = bytes_per_element(work.dtype)
        time = self.launch
        if work.m % 4:
            time += self.pad
            if self.repack:
                time += 2.0 * width * inputs / self.repack
        if self.quantise:
            time += (2.0 + width) * inputs / self.quantise
        return time

    def _surfaces(self, work: GemmWork, cores: int) -> float:
        by_columns, by_rounds = surface_sizes(work, cores)
        return COLUMNS.at(self.by_columns, *by_columns) + ROUNDS.at(self.by_rounds, *by_rounds)


def surface_sizes(work: GemmWork, cores: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """Rows and columns; rounds of 128 x 128 tiles over all cores and k."""
    rows = max(1, work.m)
    tiles = work.batch * math.ceil(rows / 128) * math.ceil(work.n / 128)
    return (rows, work.n), (tiles / cores, work.k)


def _missing(m: int) -> int:
    """Rows that the last tile lacks: tiles have 64, 128 or 256 rows; up to 16 need no more."""
    if m <= 16:
        return 0
    tile = 64 if m <= 64 else 128 if m <= 128 else 256
    return -m % tile
