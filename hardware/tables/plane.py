"""Times measured at some points of two counts, carried on by a cost model where there are none."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

#: Two counts, e.g. decodes and the context of each.
Point = tuple[int, int]


@dataclass(frozen=True)
class Plane:
    """Seconds by two counts, not necessarily at all pairs of them.

    Between the four points around it a time is interpolated linearly. At a point that was not
    measured, a model's time stands, scaled by what the nearest measured point took of the model's
    time there. Beyond the last count of an axis, points lie at its doublings; so values are
    continuous everywhere, and the model's own rounds of tiles show at those points only.
    """

    measured: Mapping[Point, float]

    @cached_property
    def axes(self) -> tuple[Sequence[int], Sequence[int]]:
        """The counts that occur, ascending."""
        first, second = (tuple(sorted({point[i] for point in self.measured})) for i in (0, 1))
        return first, second

    @cached_property
    def _nearest(self) -> dict[Point, Point]:
        """Nearest measured points, once found."""
        return {}

    def covers(self, x: int, y: int) -> bool:
        """Whether all points around were measured."""
        return all(point in self.measured for point, _ in self._around(x, y))

    def at(self, x: int, y: int, model: Callable[[int, int], float]) -> float:
        """Seconds at ``x`` and ``y``; ``model`` gives its own for any two counts."""
        return sum(weight * self._point(at, model) for at, weight in self._around(x, y))

    def _around(self, x: int, y: int) -> list[tuple[Point, float]]:
        """The points around, and their weights."""
        first, second = around(self.axes[0], x), around(self.axes[1], y)
        return [((i, j), u * v) for i, u in first for j, v in second]

    def _point(self, at: Point, model: Callable[[int, int], float]) -> float:
        if at in self.measured:
            return self.measured[at]
        nearest = self._nearest.get(at)
        if nearest is None:
            nearest = min(self.measured, key=lambda point: (_distance(at, point), point))
            self._nearest[at] = nearest
        return self.measured[nearest] * model(*at) / model(*nearest)


def around(axis: Sequence[int], x: int) -> list[tuple[int, float]]:
    """The counts around ``x`` with their weights.

    Those of ``axis``, beyond its last one the doublings of it, and ``x`` itself before its first.
    """
    i = bisect_left(axis, x)
    if i == 0 or (i < len(axis) and axis[i] == x):
        return [(x, 1.0)]
    low = axis[i - 1]
    high = axis[i] if i < len(axis) else max(2 * low, 1)
    while high < x:
        low, high = high, 2 * high
    weight = (x - low) / (high - low)
    return [(low, 1 - weight), (high, weight)]


def _distance(one: Point, other: Point) -> float:
    """In octaves, over both counts."""
    return sum(abs(math.log2((a + 1) / (b + 1))) for a, b in zip(one, other, strict=True))
