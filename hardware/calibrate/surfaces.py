"""What a fitted form leaves of measured times, as smooth surfaces over sizes of the work."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import numpy as np
import numpy.typing as npt

from servesim.hardware.calibrate.fit import Fit, Problem, scaled, thinned
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
    if not problem.surfaces:
        return fitted
    chosen = scaled(thinned(rows, _MOST_ROWS, seed=0), fitted.origins)
    times = [problem.seconds(fitted.coefficients, row) for row in chosen]
    left = np.array([math.log(r.seconds / t) for r, t in zip(chosen, times, strict=True)])
    sizes = [surface.size for surface in problem.surfaces.values()]
    starts = np.cumsum([0, *sizes])
    basis = np.zeros((len(chosen), starts[-1]))
    for start, surface in zip(starts, problem.surfaces.values(), strict=False):
        for i, row in enumerate(chosen):
            for place, weight in surface.weights(row):
                basis[i, start + place] += weight
    shapes = len({row.shape for row in chosen})
    values = _damped(basis, left, min(_MOST_PULL, _PULL * len(chosen) / shapes))
    values[: sizes[0]] += np.median(left - basis @ values)
    found = {
        name: tuple(round(float(v), _DIGITS) for v in values[start : start + size])
        for name, start, size in zip(problem.surfaces, starts, sizes, strict=False)
    }
    return replace(fitted, coefficients=fitted.coefficients | found)


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
