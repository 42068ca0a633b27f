"""Attention latencies measured over batches of decodes beside one prefill chunk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from servesim.errors import InputError
from servesim.hardware.tables.grid import locate

#: chunk, context of the chunk, decodes, mean context of the decodes.
Point = tuple[int, int, int, int]
#: Of each x and y.
Known = tuple[tuple[bool, ...], ...]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class AttentionGrid:
    """Seconds of attention on a full grid, ready for look-up.

    Attributes:
        decodes, contexts: axes of a batch of decodes alone: how many, and their mean context.
        alone: seconds by [decodes][context].
        chunks, chunk_contexts, beside: axes of a step with prefill: its new tokens, their
            context, and decodes beside it (0 first).
        mixed: seconds by [chunk][chunk context][decodes][context], flat.
        known: which of ``alone`` were measured, or lie between measured ones.
    """

    decodes: tuple[int, ...]
    contexts: tuple[int, ...]
    alone: tuple[tuple[float, ...], ...]
    chunks: tuple[int, ...]
    chunk_contexts: tuple[int, ...]
    beside: tuple[int, ...]
    mixed: tuple[float, ...]
    known: Known

    @classmethod
    def of(cls, seconds: Mapping[Point, float]) -> AttentionGrid:
        """From scattered measurements; what lies between them is interpolated linearly.

        Raises:
            InputError: no decode-only or no prefill measurement.
        """
        alone = {(n, kv): t for (chunk, _, n, kv), t in seconds.items() if not chunk}
        mixed = {point: t for point, t in seconds.items() if point[0]}
        if not alone or not mixed:
            raise InputError("an attention table needs decode-only and prefill measurements")
        decodes = _axis(n for n, _ in alone)
        contexts = _axis(p[3] for p in seconds if p[2])
        rows = _plane(alone, decodes, contexts)
        chunks, before, beside = (_axis(p[i] for p in mixed) for i in range(3))
        cube = _cube(mixed, (chunks, before, beside, contexts))
        flat = tuple(cube.ravel().tolist())
        known = _known(alone, decodes, contexts)
        return cls(decodes, contexts, rows, chunks, before, beside, flat, known)

    def covers_decodes(self, decodes: int, context: float) -> bool:
        """Whether decodes alone were measured on all sides of such a batch."""
        return _inside(self.known, self.decodes, decodes, self.contexts, context)

    def covers(self, chunk: int, chunk_context: float, decodes: int, context: float) -> bool:
        """Whether a chunk beside decodes lies within what was measured."""
        beside = decodes <= self.beside[-1] and (not decodes or context <= self.contexts[-1])
        return beside and chunk <= self.chunks[-1] and chunk_context <= self.chunk_contexts[-1]

    def decode_seconds(self, decodes: int, context: float) -> float:
        """Decodes alone at a mean context."""
        return _bilinear(self.alone, self.decodes, decodes, self.contexts, context)

    def mixed_seconds(
        self, chunk: float, chunk_context: float, decodes: int, context: float
    ) -> float:
        """One prefill chunk beside decodes at a mean context.

        A chunk shorter than the first measured one costs as much: a kernel's tile is longer.
        """
        i, u = locate(self.chunks, chunk)
        j, v = locate(self.chunk_contexts, chunk_context)
        near = self._plane(i, j, decodes, context), self._plane(i, j + 1, decodes, context)
        far = self._plane(i + 1, j, decodes, context), self._plane(i + 1, j + 1, decodes, context)
        a = near[0] + v * (near[1] - near[0])
        b = far[0] + v * (far[1] - far[0])
        return max(a + u * (b - a), 0.0)

    def _plane(self, i: int, j: int, decodes: int, context: float) -> float:
        """Seconds at chunk ``i`` and chunk context ``j``, interpolated in the decodes."""
        values, width = self.mixed, len(self.contexts)
        base = (i * len(self.chunk_contexts) + j) * len(self.beside) * width
        if not decodes:
            return values[base]
        k, u = locate(self.beside, decodes)
        m, v = locate(self.contexts, context)
        at = base + k * width + m
        a = values[at] + v * (values[at + 1] - values[at])
        at += width
        b = values[at] + v * (values[at + 1] - values[at])
        return a + u * (b - a)


@dataclass(frozen=True)
class PhaseGrid:
    """Seconds of attention where prefills and decodes were measured apart.

    Beside each other they are taken to run one after the other.

    Attributes:
        decodes, contexts, alone: as in ``AttentionGrid``.
        chunks, chunk_contexts: axes of a prefill: new tokens and their context.
        prefill: seconds by [chunk][chunk context].
        known, known_prefill: which of ``alone`` and of ``prefill`` were measured, or lie between
            measured ones.
    """

    decodes: tuple[int, ...]
    contexts: tuple[int, ...]
    alone: tuple[tuple[float, ...], ...]
    chunks: tuple[int, ...]
    chunk_contexts: tuple[int, ...]
    prefill: tuple[tuple[float, ...], ...]
    known: Known
    known_prefill: Known

    @classmethod
    def of(
        cls,
        decode: Mapping[tuple[int, int], float],
        prefill: Mapping[tuple[int, int], float],
    ) -> PhaseGrid:
        """From seconds by (decodes, context) and by (chunk, context of the chunk).

        Raises:
            InputError: one of them is empty.
        """
        if not decode or not prefill:
            raise InputError("an attention table needs decode and prefill measurements")
        decodes, contexts = _axis(n for n, _ in decode), _axis(kv for _, kv in decode)
        chunks, before = _axis(n for n, _ in prefill), _axis(kv for _, kv in prefill)
        alone, planes = _plane(decode, decodes, contexts), _plane(prefill, chunks, before)
        known = _known(decode, decodes, contexts), _known(prefill, chunks, before)
        return cls(decodes, contexts, alone, chunks, before, planes, *known)

    def covers_decodes(self, decodes: int, context: float) -> bool:
        """Whether decodes were measured on all sides of such a batch."""
        return _inside(self.known, self.decodes, decodes, self.contexts, context)

    def covers(self, chunk: int, chunk_context: float, decodes: int, context: float) -> bool:
        """Whether a chunk lies within what was measured, and decodes do."""
        axes = self.chunks, chunk, self.chunk_contexts, chunk_context
        beside = not decodes or self.covers_decodes(decodes, context)
        return beside and _inside(self.known_prefill, *axes)

    def decode_seconds(self, decodes: int, context: float) -> float:
        """Decodes alone at a mean context."""
        return _bilinear(self.alone, self.decodes, decodes, self.contexts, context)

    def mixed_seconds(
        self, chunk: float, chunk_context: float, decodes: int, context: float
    ) -> float:
        """One prefill chunk and then decodes at a mean context."""
        seconds = _bilinear(self.prefill, self.chunks, chunk, self.chunk_contexts, chunk_context)
        return seconds + (self.decode_seconds(decodes, context) if decodes else 0.0)


def _bilinear(
    rows: Sequence[Sequence[float]],
    xs: Sequence[float],
    x: float,
    ys: Sequence[float],
    y: float,
) -> float:
    i, u = locate(xs, x)
    j, v = locate(ys, y)
    low, high = rows[i], rows[i + 1]
    a = low[j] + v * (low[j + 1] - low[j])
    b = high[j] + v * (high[j + 1] - high[j])
    return a + u * (b - a)


def _axis(values: Iterable[int]) -> tuple[int, ...]:
    """Ascending distinct values; a lone one gets a neighbour so that cells exist."""
    found = tuple(sorted(set(values)))
    return found if len(found) > 1 else (*found, found[0] + 1)


def _plane(
    measured: Mapping[tuple[int, int], float], xs: tuple[int, ...], ys: tuple[int, ...]
) -> tuple[tuple[float, ...], ...]:
    """Values at every x and y, what was not measured filled in along y, then x."""
    values = _scattered(measured, xs, ys)
    for axis, coordinates in ((1, ys), (0, xs)):
        _between(values, axis, coordinates)
        _hold(values, axis)
    return tuple(tuple(row) for row in values.tolist())


def _scattered(
    measured: Mapping[tuple[int, int], float], xs: tuple[int, ...], ys: tuple[int, ...]
) -> Floats:
    """Measured values by x and y, and NaN."""
    values = np.full((len(xs), len(ys)), np.nan)
    index = [{value: i for i, value in enumerate(axis)} for axis in (xs, ys)]
    for (x, y), t in measured.items():
        values[index[0][x], index[1][y]] = t
    return values


def _known(
    measured: Mapping[tuple[int, int], float], xs: tuple[int, ...], ys: tuple[int, ...]
) -> Known:
    """At which x and y something was measured, or on both sides of them."""
    values = _scattered(measured, xs, ys)
    for axis, coordinates in ((1, ys), (0, xs)):
        _between(values, axis, coordinates)
    return tuple(tuple(row) for row in (~np.isnan(values)).tolist())


def _inside(known: Known, xs: Sequence[float], x: float, ys: Sequence[float], y: float) -> bool:
    """Whether all corners of the cell are known; what lies below an axis costs as its start."""
    if x > xs[-1] or y > ys[-1]:
        return False
    (i, u), (j, v) = locate(xs, x), locate(ys, y)
    return all(
        known[i + di][j + dj]
        for di, dj in ((0, 0), (0, 1), (1, 0), (1, 1))
        if (u > 0 if di else u < 1) and (v > 0 if dj else v < 1)
    )


def _cube(mixed: Mapping[Point, float], axes: Sequence[tuple[int, ...]]) -> Floats:
    """Seconds over all four axes, what was not measured filled in."""
    cube = np.full([len(axis) for axis in axes], np.nan)
    index = [{value: i for i, value in enumerate(axis)} for axis in axes]
    for (chunk, before, n, kv), t in mixed.items():
        at = index[0][chunk], index[1][before], index[2][n]
        if n:
            cube[(*at, index[3][kv])] = t
        else:
            cube[at] = t
    for axis in (3, 2, 1):
        _between(cube, axis, axes[axis])
    _beside_full_rows(cube, axes[0])
    for axis in (3, 2, 1, 0):
        _hold(cube, axis)
    return cube


def _beside_full_rows(cube: Floats, chunks: Sequence[int]) -> None:
    """Complete chunks measured over fewer contexts than others.

    They follow the complete chunks around them, moved to meet their own first measurement.
    """
    full = np.asarray(~np.isnan(cube).any(axis=(1, 2, 3)))
    if full.sum() < 2:
        return
    base = np.where(full[:, None, None, None], cube, np.nan)
    _between(base, 0, chunks)
    moved = cube - base
    _hold(moved, 3)
    np.copyto(cube, base + moved, where=np.isnan(cube))


def _between(values: Floats, axis: int, coordinates: Sequence[int]) -> None:
    """Fill gaps between known points of each line along ``axis``, linearly, in place."""
    lines = np.moveaxis(values, axis, -1)
    x = np.asarray(coordinates, dtype=float)
    unknown = np.isnan(lines)
    for at in np.argwhere(unknown.any(axis=-1) & ~unknown.all(axis=-1)):
        line = lines[tuple(at)]
        known = np.flatnonzero(~np.isnan(line))
        span = slice(known[0], known[-1] + 1)
        line[span] = np.interp(x[span], x[known], line[known])


def _hold(values: Floats, axis: int) -> None:
    """Continue each line along ``axis`` with its first and last known value, in place."""
    lines = np.moveaxis(values, axis, -1)
    unknown = np.isnan(lines)
    for at in np.argwhere(unknown.any(axis=-1) & ~unknown.all(axis=-1)):
        line = lines[tuple(at)]
        known = np.flatnonzero(~np.isnan(line))
        line[: known[0]] = line[known[0]]
        line[known[-1] :] = line[known[-1]]
