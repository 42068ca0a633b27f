"""Smooth corrections over two sizes: what libraries' choice of kernels adds or saves."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from servesim.errors import InputError


@dataclass(frozen=True, slots=True)
class Knots:
    """Where a surface is given: powers of two of two sizes, each ascending.

    Between knots it is bilinear in the logarithms of the sizes, beyond them constant.
    """

    first: tuple[float, ...]
    second: tuple[float, ...]

    def require(self, name: str, values: Sequence[float]) -> None:
        """Check that ``values`` are as many as there are knots, or none.

        Raises:
            InputError: they are not.
        """
        count = len(self.first) * len(self.second)
        if len(values) not in (0, count):
            raise InputError(f"{name} must be {count} numbers, not {len(values)}")

    def at(self, values: Sequence[float], first: float, second: float) -> float:
        """The surface of ``values`` (row by row, ``second`` along a row) at two positive sizes."""
        return sum(weight * values[i] for i, weight in self.weights(first, second))

    def weights(self, first: float, second: float) -> tuple[tuple[int, float], ...]:
        """Places in the values that count at two positive sizes, with their weights."""
        i, u = _cell(self.first, math.log2(first))
        j, v = _cell(self.second, math.log2(second))
        width = len(self.second)
        corner = i * width + j
        return (
            (corner, (1.0 - u) * (1.0 - v)),
            (corner + 1, (1.0 - u) * v),
            (corner + width, u * (1.0 - v)),
            (corner + width + 1, u * v),
        )

    @property
    def size(self) -> int:
        """How many values a surface has."""
        return len(self.first) * len(self.second)


def _cell(knots: Sequence[float], x: float) -> tuple[int, float]:
    """The knot below ``x``, never the last, and how far ``x`` is from it to the next."""
    i = min(max(bisect_right(knots, x) - 1, 0), len(knots) - 2)
    return i, min(max((x - knots[i]) / (knots[i + 1] - knots[i]), 0.0), 1.0)
