"""Linear interpolation over measured points, in plain Python numbers."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


def locate(axis: Sequence[float], x: float) -> tuple[int, float]:
    """The cell of ``x`` on an ascending ``axis`` and the weight of its upper end.

    Below the axis the weight is 0 (the first value holds); above, it exceeds 1 (the last slope
    goes on). An axis of one point is one cell wide by the caller's care.
    """
    if x <= axis[0]:
        return 0, 0.0
    i = min(bisect_right(axis, x) - 1, len(axis) - 2)
    return i, (x - axis[i]) / (axis[i + 1] - axis[i])


@dataclass(frozen=True)
class Curve:
    """Seconds over one count (tokens or sequences).

    Between points the value is interpolated linearly. Above the last point the curve goes on with
    the slope of its upper half, which stairs and noise of single points hardly move.
    """

    xs: tuple[float, ...]
    ys: tuple[float, ...]

    @classmethod
    def of(cls, points: Iterable[tuple[float, float]]) -> Curve:
        """From (count, seconds) pairs in any order; repeated counts are averaged."""
        seen: dict[float, list[float]] = {}
        for x, y in points:
            seen.setdefault(x, []).append(y)
        xs = tuple(sorted(seen))
        return cls(xs, tuple(sum(seen[x]) / len(seen[x]) for x in xs))

    def inside(self, x: float) -> bool:
        """Whether ``x`` lies within the measured range."""
        return self.xs[0] <= x <= self.xs[-1]

    def at(self, x: float) -> float:
        """The value at ``x``."""
        if len(self.xs) == 1 or x <= self.xs[0]:
            return self.ys[0]
        last = self.xs[-1]
        if x > last:
            middle = (self.xs[0] + last) / 2
            slope = (self.ys[-1] - self.at(middle)) / (last - middle)
            return self.ys[-1] + max(0.0, slope) * (x - last)
        i, w = locate(self.xs, x)
        return self.ys[i] + w * (self.ys[i + 1] - self.ys[i])

    def stair(self, x: float) -> float:
        """The value at the next measured count from ``x`` on, as of work done in whole tiles.

        Only where the next count is near (within an eighth of ``x``, less than a tile as soon as
        tiles are filled); between counts further apart, and beyond the last, as ``at``.
        """
        i = bisect_left(self.xs, x)
        if i < len(self.xs) and self.xs[i] - x <= x / 8:
            return self.ys[i]
        return self.at(x)
