"""Dense matrix products: tiles in waves against weights streamed from memory."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

from servesim.graph.dtypes import bytes_per_element
from servesim.graph.work import GemmWork
from servesim.hardware.forms.machine import Machine, blended_max, waves

#: Output tiles (rows, columns) and splits of k a library chooses among.
TILES = ((16, 64), (64, 64), (64, 128), (128, 128), (64, 256), (128, 256), (256, 128))
SPLITS = (1, 2, 3, 4, 6, 8)

#: Numbers of rows at which ``GemmForm.rows`` is given; linear in log m between, constant beyond.
ROWS = (1, 16, 64, 128, 256, 512, 1024, 2048, 8192)
_LOG_ROWS = tuple(math.log(m) for m in ROWS)


@dataclass(frozen=True, slots=True)
class GemmForm:
    """``rows(m) · (launch + min over tiles and splits of blended_max(tiles, memory))``.

    Attributes:
        launch: seconds from one kernel's end to the next one's start, filling and draining.
        memory: share of peak bandwidth that streaming weights reaches.
        compute: share of peak arithmetic inside a tile.
        feed: bytes/s at which all cores together load operands, as a multiple of bandwidth.
        tile: seconds a tile takes beside its main loop.
        split: seconds a split of k adds.
        reduce: bytes/s at which partial sums are written and read, as a multiple of bandwidth.
        sharpness: of the blend of arithmetic and memory.
        smoothing: share of wave quantisation that is hidden, 0 to 1.
        cache: bytes/s of the last-level cache, as a multiple of bandwidth.
        rows: what library heuristics add or save by m, at ``ROWS``.
        least: rows of the smallest tile used where twice as many would still be filled.
        ragged: rows computed beside m when m is no multiple of 8.
        pad: seconds that padding to a multiple of 4 rows takes.
        quantise: bytes/s at which a kernel before it turns 16-bit inputs into the format of the
            arithmetic, as a multiple of bandwidth; 0 where inputs come in that format.
    """

    launch: float
    memory: float
    compute: float
    feed: float
    tile: float
    split: float
    reduce: float
    sharpness: float
    smoothing: float
    cache: float
    rows: tuple[float, ...] = (1.0,) * len(ROWS)
    least: float = 0.0
    ragged: float = 0.0
    pad: float = 0.0
    quantise: float = 0.0

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
        memory = far / (self.memory * bandwidth) + near / (self.cache * bandwidth)

        cores = machine.cores
        per_flop = cores / (self.compute * machine.flops)
        per_byte = cores / (self.feed * bandwidth)
        weight_width = bytes_per_element(work.weight)
        partial = 8.0 * batch * m * n / (self.reduce * bandwidth)
        best = math.inf
        computed = m + self.ragged if m > 16 and m % 8 else m
        for rows, columns in TILES:
            if rows < self.least and 2 * rows <= m:
                continue
            tiles = batch * math.ceil(computed / rows) * math.ceil(n / columns)
            step = max(
                2.0 * rows * columns * per_flop,
                (rows * width + columns * weight_width) * per_byte,
            )
            for split in SPLITS:
                time = waves(tiles * split / cores, self.smoothing) * (step * k / split + self.tile)
                if split > 1:
                    time += self.split + split * partial
                best = min(best, time)
        fixed = self.launch + self.pad if m % 4 else self.launch
        if self.quantise:
            fixed += batch * m * k * (2.0 + width) / (self.quantise * bandwidth)
        return self._rows(m) * (fixed + blended_max(best, memory, self.sharpness))

    def _rows(self, m: int) -> float:
        x = math.log(m) if m > 0 else 0.0
        i = bisect_right(_LOG_ROWS, x)
        if i == 0:
            return self.rows[0]
        if i == len(ROWS):
            return self.rows[-1]
        weight = (x - _LOG_ROWS[i - 1]) / (_LOG_ROWS[i] - _LOG_ROWS[i - 1])
        return self.rows[i - 1] + weight * (self.rows[i] - self.rows[i - 1])
