"""Kernels as they were measured on this machine, by shape; other models for the rest.

A device file's ``[measured]`` table holds by family

- for a shape, a curve of seconds over rows (products, experts, kernels that move data) or a sum of
  terms of the batch (attention, recurrent mixers): see ``batch_terms``;
- for ``"any <kind>"``, all other shapes, a sum of terms of their sizes: see ``size_terms``.

Sums are how one core, or few, work a batch off: one piece after another. Devices on which they
predict worse than the calibrated forms have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from servesim.errors import InputError, UnknownNameError
from servesim.graph.work import AttentionWork, GemmWork, MemoryWork, MoeWork, RecurrentWork, Work
from servesim.hardware.bounds import least_seconds
from servesim.hardware.cost import Cost, CostModel, Source
from servesim.hardware.device import Device
from servesim.hardware.shapes import (
    REPEATED,
    Terms,
    batch_terms,
    count_of,
    covers,
    kind_of,
    shape_of,
    size_terms,
)
from servesim.hardware.shared_keys import with_near_keys
from servesim.hardware.tables.grid import Curve

#: Families whose shapes have a curve each, and those that have a sum.
CURVES, SUMS = ("gemm", "moe", "memory"), ("attention", "recurrent")
#: Experts touched that differ by less are as many.
_SAME_TOUCHED = 1e-3
#: An instance of each family, to know the names of its terms by.
_LIKE: dict[str, Work] = {
    "gemm": GemmWork(1, 1, 1),
    "moe": MoeWork(1, 1.0, 1.0, 1, 1, 1, 1),
    "memory": MemoryWork("copy", 1, 1.0, 1.0),
    "attention": AttentionWork((), 1, 1, 1, 1, 1, 1, 1),
    "recurrent": RecurrentWork("", 1, 1, 1, 1, 1, 1, 0.0, 0.0, 0.0),
}


@dataclass(frozen=True)
class MeasuredCost:
    """Costs by shape where there is a curve or sum, by kind where not, else ``fallback``.

    Never faster than the device's peak arithmetic, nor than its memory delivers what exceeds its
    cache.

    Attributes:
        device: what the kernels were measured on.
        curves: seconds over rows, by family and shape.
        sums: seconds of each term, by family and shape or kind.
        fallback: answers for the rest.
    """

    device: Device
    curves: Mapping[tuple[str, str], Curve]
    sums: Mapping[tuple[str, str], Terms]
    fallback: CostModel

    @classmethod
    def from_table(cls, device: Device, table: Mapping[str, Any], fallback: CostModel) -> CostModel:
        """The cost model of a device file's ``[measured]`` table.

        Raises:
            UnknownNameError: an unknown family or term.
            InputError: a curve or sum is malformed.
        """
        curves, sums = {}, {}
        for family, shapes in table.items():
            if family not in _LIKE:
                raise UnknownNameError("measured family", family, _LIKE)
            for shape, values in shapes.items():
                where = f"{device.name}: measured.{family}.{shape!r}"
                if family in CURVES and not shape.startswith("any "):
                    curves[family, shape] = _curve(values, where)
                else:
                    terms = size_terms if shape.startswith("any ") else batch_terms
                    sums[family, shape] = _sum(values, terms(_LIKE[family]), where)
        return cls(device, curves, sums, fallback)

    def cost(self, work: Work) -> Cost:
        """The cost of ``work``.

        Raises:
            UnsupportedError: the fallback cannot run such work.
        """
        if work.family not in _LIKE:
            return self.fallback.cost(work)
        count = count_of(work)
        if not count:
            return Cost(0.0, Source.MEASURED)
        shape = work.family, shape_of(work)
        if (curve := self.curves.get(shape)) is not None:
            source = Source.MEASURED if count <= curve.xs[-1] else Source.EXTRAPOLATED
            seconds = curve.at(count)
            if isinstance(work, MoeWork) and (share := self._touching(work)) != 1.0:
                seconds *= share
                source = Source.CALIBRATED if source is Source.MEASURED else source
            return self._bounded(work, seconds, source)
        if (sums := self.sums.get(shape)) is not None and covers(sums, work):
            terms = batch_terms(self._told_apart(work, sums))
            return self._bounded(work, summed(sums, terms), Source.MEASURED)
        sums = self.sums.get((work.family, kind_of(work)))
        if sums is not None and covers(sums, work):
            terms = size_terms(self._told_apart(work, sums))
            return self._bounded(work, summed(sums, terms), Source.CALIBRATED)
        return self.fallback.cost(work)

    def _touching(self, work: MoeWork) -> float:
        """What it takes by what it would, chose its tokens experts evenly, as those measured.

        Both by the sum of its kind; 1 where there is none.
        """
        here = min(1.0, work.pairs / (work.tokens * work.experts))  # tokens that choose an expert
        even = replace(work, touched=work.experts * (1.0 - (1.0 - here) ** work.tokens))
        sums = self.sums.get((work.family, kind_of(work)))
        if sums is None or abs(work.touched - even.touched) < _SAME_TOUCHED * even.touched:
            return 1.0
        return summed(sums, size_terms(work)) / summed(sums, size_terms(even))

    def _told_apart(self, work: Work, sums: Terms) -> Work:
        """``work`` with those repeated keys that ``sums`` know and the cache holds."""
        if not isinstance(work, AttentionWork) or not work.repeated_keys:
            return work
        if REPEATED.isdisjoint(sums):
            return replace(work, shared_keys=0, repeated_keys=0)
        return with_near_keys(work, self.device.cache_bytes)

    def _bounded(self, work: Work, seconds: float, source: Source) -> Cost:
        return Cost(max(seconds, least_seconds(work, self.device)), source)


def summed(coefficients: Terms, terms: Terms) -> float:
    """Seconds: each term times its coefficient; terms without one take no time."""
    return sum(coefficients.get(name, 0.0) * value for name, value in terms.items())


def _curve(values: Any, where: str) -> Curve:
    try:
        points = [(float(count), float(seconds)) for count, seconds in values]
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{where}: a curve is a list of [count, seconds], not {values!r}"
        ) from error
    if not points or any(count <= 0 or seconds <= 0 for count, seconds in points):
        raise InputError(f"{where}: a curve needs points, all of them positive")
    return Curve.of(points)


def _sum(values: Any, known: Terms, where: str) -> Terms:
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: a sum is a table of terms, not {values!r}")
    for name in values:
        if name not in known:
            raise UnknownNameError(f"term of {where}:", name, known)
    return {name: float(value) for name, value in values.items()}
