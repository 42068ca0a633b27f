"""Coefficients of a form from measured rows: robust least squares on the log of time."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from servesim.errors import InputError
from servesim.hardware.calibrate.row import SERVING, Row

#: Errors beyond this (in log time) count linearly, not squared.
_ROBUST = 0.08
#: Pull of every coefficient to where it starts, against the rows' squared errors: keeps
#: coefficients that the data leave open at sensible values.
_PULL = 0.02
#: Tables of one device differ by about so much: in log of the factor, and in seconds a kernel.
_FACTOR_WIDTH, _OFFSET_WIDTH = 0.1, 1e-6
#: Bounds of the two.
_MOST_FACTOR, _MOST_OFFSET = 0.5, 5e-6

Seconds = Callable[[Mapping[str, Any], Row], float]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A positive coefficient: where the search starts, and its bounds."""

    start: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Surface:
    """A coefficient of ``size`` values: which of them count for a row, and by how much."""

    size: int
    weights: Callable[[Row], Sequence[tuple[int, float]]]


@dataclass(frozen=True)
class Problem:
    """What is fitted to which rows.

    Attributes:
        seconds: time of a row under coefficients.
        parameters: coefficients the search varies, in log space.
        choices: coefficients of few possible values, all of them tried.
        most_rows: rows a fit looks at; more are thinned at random, evenly over regimes.
        surfaces: coefficients fitted to what is left after the others, by name.
        needs: values of choices, one of which a parameter needs to mean anything; by its name.
        group: forms of one group have ``shared`` coefficients; without a name, it has none.
        shared: ``parameters``, ``choices`` or ``surfaces`` (all of them) that are the same for all
            forms of the group.
        by_octave: long kernels count though they are few among what was measured.
    """

    seconds: Seconds
    parameters: Mapping[str, Parameter]
    choices: Mapping[str, Sequence[float | str]] = field(default_factory=dict)
    most_rows: int = 2000
    surfaces: Mapping[str, Surface] = field(default_factory=dict)
    needs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    group: str = ""
    shared: Sequence[str] = ()
    by_octave: bool = False

    def searched(self, fixed: Mapping[str, float | str]) -> dict[str, Parameter]:
        """The parameters that have a meaning with the choices ``fixed``."""
        chosen = fixed.values()
        return {
            name: parameter
            for name, parameter in self.parameters.items()
            if name not in self.needs or any(value in self.needs[name] for value in chosen)
        }

    def grid(self) -> list[dict[str, float | str]]:
        """All combinations of the choices."""
        combinations = itertools.product(*self.choices.values())
        return [dict(zip(self.choices, values, strict=True)) for values in combinations]

    def size(self) -> int:
        """The most coefficients that are searched under any choices."""
        return max(len(self.searched(fixed)) for fixed in self.grid())


class Scale(NamedTuple):
    """How a table's times follow from those of serving: ``factor · seconds + offset``.

    A benchmark that launches one kernel over and over leaves out what a kernel of a model pays
    after another one, and may have run at other clocks.
    """

    factor: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True)
class Fit:
    """Coefficients, and the scale of each table other than the one that stands for serving."""

    coefficients: dict[str, Any]
    origins: dict[str, Scale]
    cost: float


def fit(problem: Problem, rows: Sequence[Row], seed: int = 0) -> Fit:
    """The coefficients under which ``problem.seconds`` comes closest to ``rows``.

    Raises:
        InputError: fewer rows than coefficients.
    """
    if len(rows) < problem.size():
        raise InputError(f"{len(rows)} rows are too few for {problem.size()} coefficients")
    fixed, _ = min(scouted(problem, rows, seed), key=lambda scout: scout[1])
    return _fitted(problem, thinned(rows, problem.most_rows, seed), fixed)


def scouted(
    problem: Problem, rows: Sequence[Row], seed: int = 0
) -> list[tuple[dict[str, float | str], float]]:
    """All combinations of choices, each with its cost on some of ``rows``; one alone has none."""
    grid = problem.grid()
    if len(grid) == 1:
        return [(grid[0], 0.0)]
    chosen = thinned(rows, problem.most_rows, seed)
    scouts = thinned(chosen, max(200, problem.most_rows // 4), seed)
    return [(fixed, _fitted(problem, scouts, fixed).cost) for fixed in grid]


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


class Search:
    """The coefficients of ``problem`` as a vector of logs, and how far they are from ``rows``.

    Behind the coefficients come log factor and offset (in ``_OFFSET_WIDTH``) of every origin but
    the one that stands for serving.

    Attributes:
        names: coefficients searched, in the vector's order: those that have a meaning.
        start, low, high: where the search starts, and bounds.
    """

    def __init__(
        self, problem: Problem, rows: Sequence[Row], fixed: Mapping[str, float | str]
    ) -> None:
        known = sorted({row.origin for row in rows}, key=lambda origin: (origin != SERVING, origin))
        searched = problem.searched(fixed)
        parameters = searched.values()
        wide = np.tile([_MOST_FACTOR, _MOST_OFFSET / _OFFSET_WIDTH], len(known) - 1)
        self.names = list(searched)
        self.start = np.array([*(math.log(p.start) for p in parameters), *(0.0 * wide)])
        self.low = np.array([*(math.log(p.low) for p in parameters), *-wide])
        self.high = np.array([*(math.log(p.high) for p in parameters), *wide])
        self._problem, self._rows, self._fixed, self._known = problem, rows, dict(fixed), known
        self._measured = np.array([math.log(row.seconds) for row in rows])
        self._origin_of = np.array([known.index(row.origin) for row in rows])
        self._weights = _by_octave(rows) if problem.by_octave else np.ones(len(rows))
        self._pull = _PULL * math.sqrt(len(rows) / 100.0)

    def residuals(self, x: Any) -> Any:
        """Errors in log time of every row at ``x``, then the pull on coefficients and scales."""
        coefficients = self._coefficients(x)
        times = np.array([self._problem.seconds(coefficients, row) for row in self._rows])
        factors, offsets = self._scales(x)
        shifted = times * np.exp(factors[self._origin_of])
        shifted += offsets[self._origin_of] * _OFFSET_WIDTH
        errors = self._weights * (np.log(np.maximum(shifted, 0.1 * times)) - self._measured)
        prior = self._pull * (x - self.start)[: len(self.names)]
        factors = self._pull * factors / _FACTOR_WIDTH
        return np.concatenate([errors, prior, factors, self._pull * offsets])

    def fit(self, x: Any, cost: float) -> Fit:
        """What ``x`` stands for."""
        pairs = list(zip(self._known, *self._scales(x), strict=True))[1:]
        origins = {o: Scale(math.exp(f), float(t) * _OFFSET_WIDTH) for o, f, t in pairs}
        return Fit(self._coefficients(x), origins, cost)

    def at(self, fitted: Fit) -> Any:
        """The vector that stands for ``fitted``."""
        logs = [math.log(fitted.coefficients[name]) for name in self.names]
        for origin in self._known[1:]:
            factor, offset = fitted.origins[origin]
            logs += [math.log(factor), offset / _OFFSET_WIDTH]
        return np.clip(np.array(logs), self.low, self.high)

    def _coefficients(self, x: Any) -> dict[str, Any]:
        found = {name: math.exp(v) for name, v in zip(self.names, x, strict=False)}
        return {**self._fixed, **found}

    def _scales(self, x: Any) -> tuple[Any, Any]:
        """Log factor and offset in its width, of every origin; the reference has none."""
        pairs = np.concatenate([[0.0, 0.0], x[len(self.names) :]]).reshape(-1, 2)
        return pairs[:, 0], pairs[:, 1]


def _by_octave(rows: Sequence[Row]) -> Any:
    """Weights of errors: rows within a factor two of time count by the root of their number."""
    octaves = [math.floor(math.log2(row.seconds)) for row in rows]
    counts = Counter(octaves)
    weights = np.array([counts[octave] ** -0.25 for octave in octaves])
    return weights / math.sqrt(float(np.mean(weights**2)))


def solved(residuals: Callable[[Any], Any], start: Any, low: Any, high: Any) -> tuple[Any, float]:
    """Where the robust sum of squared ``residuals`` is least, and that sum."""
    from scipy.optimize import least_squares

    found = least_squares(
        residuals,
        start,
        bounds=(low, high),
        loss="soft_l1",
        f_scale=_ROBUST,
        diff_step=1e-3,
        max_nfev=40,
    )
    return found.x, float(found.cost)


def _fitted(problem: Problem, rows: Sequence[Row], fixed: Mapping[str, float | str]) -> Fit:
    search = Search(problem, rows, fixed)
    return search.fit(*solved(search.residuals, search.start, search.low, search.high))


def scaled(rows: Sequence[Row], origins: Mapping[str, Scale]) -> list[Row]:
    """``rows`` with times brought to the scale of the table that stands for serving."""
    found = []
    for row in rows:
        factor, offset = origins.get(row.origin, Scale())
        seconds = max(row.seconds - offset, 0.1 * row.seconds) / factor
        found.append(replace(row, seconds=seconds))
    return found
