"""Measured points as few numbers: curves without points that lines between others tell as well."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from servesim.hardware.shapes import Terms
from servesim.hardware.tables.grid import Curve

Point = tuple[float, float]
#: How far a line may pass by a measured point for the point to be left out.
TOLERANCE = 0.03


def thinned(points: Sequence[Point], tolerance: float = TOLERANCE) -> list[Point]:
    """The fewest of ``points`` (ascending) that keep all others within ``tolerance``, greedily.

    The point furthest from the line is kept, and both sides are looked at again (Ramer 1972,
    Douglas and Peucker 1973), distances being relative errors.
    """
    if len(points) <= 2:
        return list(points)
    line = Curve.of((points[0], points[-1]))
    off = [abs(line.at(x) / y - 1.0) for x, y in points]
    worst = max(range(1, len(points) - 1), key=lambda i: off[i])
    if off[worst] <= tolerance:
        return [points[0], points[-1]]
    return [*thinned(points[: worst + 1], tolerance)[:-1], *thinned(points[worst:], tolerance)]


def left_out_errors(points: Sequence[Point]) -> list[float]:
    """Relative errors of inner points, each predicted from all others."""
    errors = []
    for i in range(1, len(points) - 1):
        others = Curve.of([*points[:i], *points[i + 1 :]])
        errors.append(others.at(points[i][0]) / points[i][1] - 1.0)
    return errors


def fit_sum(rows: Sequence[tuple[Terms, float]]) -> dict[str, float]:
    """Non-negative coefficients of the terms with the least relative errors.

    Terms that take no time are left out.
    """
    from scipy.optimize import nnls

    names = list(rows[0][0])
    scale = np.array([max(terms[name] for terms, _ in rows) or 1.0 for name in names])
    matrix = np.array([[terms[name] for name in names] for terms, _ in rows]) / scale
    seconds = np.array([s for _, s in rows])
    weights = 1.0 / seconds
    for _ in range(10):  # reweighted: relative errors count once, not squared
        found, _ = nnls(matrix * weights[:, None], seconds * weights)
        off = np.abs(matrix @ found / seconds - 1.0)
        weights = 1.0 / seconds / np.sqrt(np.maximum(off, TOLERANCE))
    return {n: float(v) for n, v in zip(names, found / scale, strict=True) if v > 0.0}


def sum_errors(
    rows: Sequence[tuple[Terms, float]], coefficients: Mapping[str, float]
) -> list[float]:
    """Relative errors of the sums."""
    return [
        sum(coefficients.get(n, 0.0) * v for n, v in terms.items()) / seconds - 1.0
        for terms, seconds in rows
    ]


def held_out_sum_errors(
    rows: Sequence[tuple[Terms, float]],
    fit: Callable[[Sequence[tuple[Terms, float]]], Mapping[str, float]] = fit_sum,
    folds: int = 5,
) -> dict[int, float]:
    """Relative errors by row, each predicted by a sum that ``fit`` found of the other folds."""
    errors: dict[int, float] = {}
    for fold in range(folds):
        rest = [row for i, row in enumerate(rows) if i % folds != fold]
        kept_out = range(fold, len(rows), folds)
        if len(rest) > len(rows[0][0]) and kept_out:
            found = sum_errors([rows[i] for i in kept_out], fit(rest))
            errors.update(zip(kept_out, found, strict=True))
    return errors
