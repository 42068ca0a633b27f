"""Coefficients of a form from measured rows: robust least squares on the log of time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from servesim.errors import InputError
from servesim.hardware.calibrate.row import SERVING, Row

#: Errors beyond this (in log time) count linearly, not squared.
_ROBUST = 0.08
#: Pull of every coefficient to where it starts, against the rows' squared errors: keeps
#: coefficients that the data leave open at sensible values.
_PULL = 0.02
#: log of the constant factor between two tables of one device is about this wide.
_ORIGIN_WIDTH = 0.1

Seconds = Callable[[Mapping[str, float], Row], float]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A positive coefficient: where the search starts, and its bounds."""

    start: float
    low: float
    high: float


@dataclass(frozen=True)
class Problem:
    """What is fitted to which rows.

    Attributes:
        seconds: time of a row under coefficients.
        parameters: coefficients the search varies, in log space.
        choices: coefficients of few possible values, all of them tried.
        most_rows: rows a fit looks at; more are thinned at random, evenly over regimes.
    """

    seconds: Seconds
    parameters: Mapping[str, Parameter]
    choices: Mapping[str, Sequence[float]] = field(default_factory=dict)
    most_rows: int = 2000


@dataclass(frozen=True)
class Fit:
    """Coefficients, and the factor by which each other table is faster or slower than serving."""

    coefficients: dict[str, float]
    origins: dict[str, float]
    cost: float


def fit(problem: Problem, rows: Sequence[Row], seed: int = 0) -> Fit:
    """The coefficients under which ``problem.seconds`` comes closest to ``rows``.

    Raises:
        InputError: fewer rows than coefficients.
    """
    if len(rows) < len(problem.parameters):
        raise InputError(f"{len(rows)} rows are too few for {len(problem.parameters)} coefficients")
    chosen = thinned(rows, problem.most_rows, seed)
    grid = [
        dict(zip(problem.choices, values, strict=True))
        for values in itertools.product(*problem.choices.values())
    ]
    if len(grid) > 1:
        scouts = thinned(chosen, max(200, problem.most_rows // 4), seed)
        grid.sort(key=lambda fixed: _search(problem, scouts, fixed).cost)
    return _search(problem, chosen, grid[0])


def thinned(rows: Sequence[Row], most: int, seed: int) -> list[Row]:
    """At most ``most`` rows: two thirds from the serving table, the rest from the others.

    Of each, every (origin, regime) gives the same number where it has enough.
    """
    if len(rows) <= most:
        return list(rows)
    serving = [row for row in rows if row.origin == SERVING]
    others = [row for row in rows if row.origin != SERVING]
    share = most * 2 // 3 if others else most
    picked = _evenly(serving, min(share, len(serving)), seed)
    return picked + _evenly(others, min(most - len(picked), len(others)), seed)


def _evenly(rows: Sequence[Row], most: int, seed: int) -> list[Row]:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.origin, row.regime), []).append(row)
    rng = np.random.default_rng(seed)
    picked: list[Row] = []
    ordered = sorted(groups.items(), key=lambda item: len(item[1]))
    for left, (_, group) in zip(range(len(ordered), 0, -1), ordered, strict=True):
        quota = min(len(group), (most - len(picked)) // left)
        picked += [group[i] for i in sorted(rng.choice(len(group), quota, replace=False))]
    return picked


def _search(problem: Problem, rows: Sequence[Row], fixed: Mapping[str, float]) -> Fit:
    from scipy.optimize import least_squares

    names = list(problem.parameters)
    origins = sorted({row.origin for row in rows})
    reference = SERVING if SERVING in origins else origins[0]
    others = [origin for origin in origins if origin != reference]
    start = np.array([math.log(p.start) for p in problem.parameters.values()])
    low = np.array([math.log(p.low) for p in problem.parameters.values()])
    high = np.array([math.log(p.high) for p in problem.parameters.values()])
    measured = np.array([math.log(row.seconds) for row in rows])
    column = {origin: len(names) + i for i, origin in enumerate(others)}
    columns = np.array([column.get(row.origin, -1) for row in rows])
    pull = _PULL * math.sqrt(len(rows) / 100.0)

    def residuals(x: Any) -> Any:
        coefficients = {**fixed, **{n: math.exp(v) for n, v in zip(names, x, strict=False)}}
        times = [problem.seconds(coefficients, row) for row in rows]
        shift = np.where(columns >= 0, x[columns], 0.0)
        errors = np.log(times) + shift - measured
        prior = pull * (x[: len(names)] - start)
        return np.concatenate([errors, prior, x[len(names) :] / _ORIGIN_WIDTH * pull])

    wide = np.full(len(others), 0.5)
    found = least_squares(
        residuals,
        np.concatenate([start, np.zeros(len(others))]),
        bounds=(np.concatenate([low, -wide]), np.concatenate([high, wide])),
        loss="soft_l1",
        f_scale=_ROBUST,
        diff_step=1e-3,
        max_nfev=40,
    )
    best = {n: math.exp(v) for n, v in zip(names, found.x, strict=False)}
    factors = {o: math.exp(found.x[i]) for o, i in column.items()}
    return Fit({**fixed, **best}, factors, float(found.cost))


def scaled(rows: Sequence[Row], origins: Mapping[str, float]) -> list[Row]:
    """``rows`` with times brought to the serving table's scale."""
    return [replace(row, seconds=row.seconds / origins.get(row.origin, 1.0)) for row in rows]
