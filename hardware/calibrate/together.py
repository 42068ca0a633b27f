"""Coefficients that several forms of a device share, fitted to the rows of all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from servesim.hardware.calibrate.fit import Fit, Problem, Search, scouted, solved, thinned
from servesim.hardware.calibrate.row import Row

#: Vectors of a form whose residuals are kept: a step of the search asks for one a coefficient,
#: most of which are other forms' own.
_KEPT = 256


@dataclass(frozen=True)
class Part:
    """One form of a group: its problem, the rows to fit, and how it was fitted alone."""

    problem: Problem
    rows: Sequence[Row]
    alone: Fit


@dataclass(frozen=True)
class _Placed:
    """A part's search, and where its vector's elements lie in that of the whole group."""

    search: Search
    places: Any
    residuals: Callable[[bytes], Any]


def agreed(
    problems: Sequence[Problem], rows: Sequence[Sequence[Row]], seed: int = 0
) -> list[Problem]:
    """``problems`` with one value left of every choice they share: that which costs all least."""
    names = [name for name in problems[0].choices if name in problems[0].shared]
    if not names:
        return list(problems)
    totals: dict[tuple[float | str, ...], float] = {}
    for problem, seen in zip(problems, rows, strict=True):
        least: dict[tuple[float | str, ...], float] = {}
        for fixed, cost in scouted(problem, seen, seed):
            values = tuple(fixed[name] for name in names)
            least[values] = min(cost, least.get(values, cost))
        for values, cost in least.items():
            totals[values] = totals.get(values, 0.0) + cost
    best = min(totals, key=lambda values: totals[values])
    left = {name: (value,) for name, value in zip(names, best, strict=True)}
    return [replace(problem, choices={**problem.choices, **left}) for problem in problems]


def fit_together(parts: Sequence[Part], seed: int = 0) -> list[Fit]:
    """Fits of all ``parts`` in which the coefficients their problems share are the same.

    Each keeps the choices it made alone. Of two searches the better one counts, as time may jump
    where a round more starts: one from where the parts ended alone, one from where they started,
    each in the mean of logs for what is shared. The pull of every part counts.
    """
    searches = [_search(part, seed) for part in parts]
    alone = [search.at(part.alone) for search, part in zip(searches, parts, strict=True)]
    shared = _shared(parts, searches)
    placed = _placed(searches, shared)
    size = max(int(p.places.max()) for p in placed) + 1
    low, high = np.full(size, -np.inf), np.full(size, np.inf)
    for p in placed:
        low[p.places] = np.maximum(low[p.places], p.search.low)
        high[p.places] = np.minimum(high[p.places], p.search.high)

    def mean(vectors: Sequence[Any]) -> Any:
        total, count = np.zeros(size), np.zeros(size)
        for p, x in zip(placed, vectors, strict=True):
            total[p.places] += x
            count[p.places] += 1
        return np.clip(total / count, low, high)

    def residuals(x: Any) -> Any:
        return np.concatenate([p.residuals(x[p.places].tobytes()) for p in placed])

    starts = mean(alone), mean([search.start for search in searches])
    found = [solved(residuals, start, low, high) for start in starts]
    best, cost = min(found, key=lambda solution: solution[1])
    return [p.search.fit(best[p.places], cost) for p in placed]


def _search(part: Part, seed: int) -> Search:
    fixed = {name: part.alone.coefficients[name] for name in part.problem.choices}
    return Search(part.problem, thinned(part.rows, part.problem.most_rows, seed), fixed)


def _shared(parts: Sequence[Part], searches: Sequence[Search]) -> list[dict[str, int]]:
    """Places in the group's vector of the coefficients that each part shares."""
    mine = [
        [name for name in part.problem.shared if name in search.names]
        for part, search in zip(parts, searches, strict=True)
    ]
    places = {name: i for i, name in enumerate(dict.fromkeys(n for names in mine for n in names))}
    return [{name: places[name] for name in names} for names in mine]


def _placed(searches: Sequence[Search], shared: Sequence[Mapping[str, int]]) -> list[_Placed]:
    """Each search with its places: those of what is shared, then its own behind all before it."""
    found = []
    free = len({name for mine in shared for name in mine})
    for search, mine in zip(searches, shared, strict=True):
        places = []
        for i in range(len(search.start)):
            name = search.names[i] if i < len(search.names) else ""
            places.append(mine.get(name, free))
            free += name not in mine
        found.append(_Placed(search, np.array(places), _remembered(search)))
    return found


def _remembered(search: Search) -> Callable[[bytes], Any]:
    @lru_cache(maxsize=_KEPT)
    def residuals(x: bytes) -> Any:
        return search.residuals(np.frombuffer(x))

    return residuals
