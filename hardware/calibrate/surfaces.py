"""What a fitted form leaves of measured times, as smooth surfaces over sizes of the work."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median

import numpy as np
import numpy.typing as npt

from servesim.hardware.calibrate.fit import Fit, Problem, Surface, scaled, thinned
from servesim.hardware.calibrate.row import Row

Floats = npt.NDArray[np.float64]

#: Rows the surfaces of a form are fitted to at most.
_MOST_ROWS = 12000
#: Pull of every value to zero, against the rows of one shape: where a surface rests on few rows,
#: or on those of few shapes, it stays flat. And the most it may be, in rows.
_PULL, _MOST_PULL = 0.016, 12.0
#: Residuals (in log time) beyond this count with a falling weight.
_ROBUST = 0.05
_ROUNDS = 15
_DIGITS = 3
#: A form that with its surfaces still misses its own rows by more, in the median, says nothing.
_MOST_ERROR = 0.25
_MOST_JUDGED = 4000


def with_surfaces(problem: Problem, fitted: Fit, rows: Sequence[Row]) -> Fit:
    """``fitted`` with the surfaces of ``problem`` among its coefficients.

    Each is a log of time. Together they take away the median of what is left, so that the form
    has no bias on ``rows``.
    """
    return with_common_surfaces([(problem, fitted, rows)])[0]


def with_common_surfaces(parts: Sequence[tuple[Problem, Fit, Sequence[Row]]]) -> list[Fit]:
    """The fits of ``parts``, all with the same surfaces, fitted to what all of them leave.

    The surfaces are those of the first problem, which all others have too.
    """
    surfaces = parts[0][0].surfaces
    if not surfaces:
        return [fitted for _, fitted, _ in parts]
    left, basis = zip(*(_left(surfaces, *part) for part in parts), strict=True)
    y, whole = np.concatenate(left), np.concatenate(basis)
    shapes = len({(i, row.shape) for i, (_, _, rows) in enumerate(parts) for row in rows})
    values = _damped(whole, y, min(_MOST_PULL, _PULL * len(y) / shapes))
    sizes = [surface.size for surface in surfaces.values()]
    values[: sizes[0]] += np.median(y - whole @ values)
    starts = np.cumsum([0, *sizes])
    found = {
        name: tuple(round(float(v), _DIGITS) for v in values[start : start + size])
        for name, start, size in zip(surfaces, starts, sizes, strict=False)
    }
    return [replace(fit, coefficients=fit.coefficients | found) for _, fit, _ in parts]


def _left(
    surfaces: Mapping[str, Surface], problem: Problem, fitted: Fit, rows: Sequence[Row]
) -> tuple[Floats, Floats]:
    """Logs of what ``fitted`` leaves of times, and how much each value counts for a row."""
    chosen = scaled(thinned(rows, _MOST_ROWS, seed=0), fitted.origins)
    times = [problem.seconds(fitted.coefficients, row) for row in chosen]
    left = np.array([math.log(r.seconds / t) for r, t in zip(chosen, times, strict=True)])
    starts = np.cumsum([0, *(surface.size for surface in surfaces.values())])
    basis = np.zeros((len(chosen), starts[-1]))
    for start, surface in zip(starts, surfaces.values(), strict=False):
        for i, row in enumerate(chosen):
            for place, weight in surface.weights(row):
                basis[i, start + place] += weight
    return left, basis


def describes(problem: Problem, fitted: Fit, rows: Sequence[Row]) -> bool:
    """Whether a form with surfaces comes near the rows it was fitted to; true of others.

    If not even so, the tables measured something else than they say.
    """
    if not problem.surfaces:
        return True
    chosen = scaled(thinned(rows, _MOST_JUDGED, seed=1), fitted.origins)
    times = [problem.seconds(fitted.coefficients, row) for row in chosen]
    errors = [abs(t / r.seconds - 1.0) for r, t in zip(chosen, times, strict=True)]
    return median(errors) <= _MOST_ERROR


def _damped(basis: Floats, y: Floats, pull: float) -> Floats:
    """Values of least squares, pulled to zero as by ``pull`` rows each, with outliers damped."""
    weights: Floats = np.ones(len(y))
    values: Floats = np.zeros(basis.shape[1])
    for _ in range(_ROUNDS):
        scaled_basis = basis * weights[:, None]
        normal = scaled_basis.T @ scaled_basis + pull * np.eye(basis.shape[1])
        right = scaled_basis.T @ (y * weights)
        values = np.asarray(np.linalg.solve(normal, right), dtype=np.float64)
        weights = 1.0 / np.sqrt(1.0 + ((y - basis @ values) / _ROBUST) ** 2)
    return np.asarray(values)
