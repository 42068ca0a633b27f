"""How much of the way from equal contexts to the longest one an uneven batch of decodes costs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from servesim.hardware.tables.grid import locate

#: chunk, decodes, and the octave of the longest context.
Cell = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class SkewSample:
    """One measured batch of decodes with unequal contexts.

    Attributes:
        chunk: new tokens of the prefill beside the decodes; 0 for decodes alone.
        decodes: how many decodes.
        longest: the longest context.
        mean_s, max_s, real_s: seconds with all contexts at the mean, all at the longest, and of
            the batch as it is.
    """

    chunk: int
    decodes: int
    longest: int
    mean_s: float
    max_s: float
    real_s: float


@dataclass(frozen=True)
class Skew:
    """alpha in ``real = mean + alpha·(max − mean)``, by chunk, decodes and longest context.

    Each cell is the least-squares alpha of the relative errors of its samples, kept within
    [0, 1]; a cell without samples takes the nearest one's beside the same chunk. Between cells it
    is interpolated linearly, but never between decodes alone (chunk 0) and beside a prefill.
    """

    chunks: tuple[int, ...]
    decodes: tuple[int, ...]
    longest: tuple[int, ...]
    alpha: tuple[tuple[tuple[float, ...], ...], ...]

    @classmethod
    def of(cls, samples: Iterable[SkewSample]) -> Skew | None:
        """From measurements; None without any."""
        sums: dict[Cell, list[float]] = {}
        for s in samples:
            gap, over = (s.max_s - s.mean_s) / s.real_s, (s.real_s - s.mean_s) / s.real_s
            cell = sums.setdefault((s.chunk, s.decodes, s.longest.bit_length() - 1), [0.0, 0.0])
            cell[0] += over * gap
            cell[1] += gap * gap
        if not sums:
            return None
        chunks, decodes, octaves = (tuple(sorted({cell[i] for cell in sums})) for i in range(3))
        alpha = tuple(
            tuple(tuple(_alpha(sums, (c, n, o)) for o in octaves) for n in decodes) for c in chunks
        )
        return cls(chunks, decodes, tuple(1 << o for o in octaves), alpha)

    def at(self, chunk: float, decodes: int, longest: float) -> float:
        """alpha for a batch; beyond the measured ranges the nearest one holds."""
        if chunk and len(self.chunks) > 1:
            chunk = max(chunk, self.chunks[1])
        i, u = _clamped(self.chunks, chunk)
        low = self._row(self.alpha[i], decodes, longest)
        return low if not u else low + u * (self._row(self.alpha[i + 1], decodes, longest) - low)

    def _row(self, rows: tuple[tuple[float, ...], ...], decodes: int, longest: float) -> float:
        i, u = _clamped(self.decodes, decodes)
        j, v = _clamped(self.longest, longest)
        low, high = rows[i], rows[min(i + 1, len(rows) - 1)]
        k = min(j + 1, len(low) - 1)
        a = low[j] + v * (low[k] - low[j])
        b = high[j] + v * (high[k] - high[j])
        return a + u * (b - a)


def _clamped(axis: tuple[int, ...], x: float) -> tuple[int, float]:
    if len(axis) == 1 or x >= axis[-1]:
        return len(axis) - 1, 0.0
    return locate(axis, x)


def _alpha(sums: Mapping[Cell, list[float]], wanted: Cell) -> float:
    """alpha of a cell, or of the nearest one measured beside the same chunk."""
    chunk, decodes, octave = wanted

    def distance(cell: Cell) -> tuple[float, int, Cell]:
        return abs(math.log2(cell[1] / decodes)), abs(cell[2] - octave), cell

    cells = [cell for cell, (_, gap) in sums.items() if cell[0] == chunk and gap > 0]
    if not cells:
        return 0.0
    over, gap = sums[min(cells, key=distance)]
    return min(1.0, max(0.0, over / gap))
