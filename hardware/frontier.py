"""Ways to place a part of a graph, those kept that may still be part of the best one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from servesim.hardware.placers import ROUNDING

#: Ways kept beside each other, of a layer and of the layers so far; more are thinned to the fastest
#: of those that hold about as much.
OF_LAYER, OF_LAYERS = 16, 64


@dataclass(frozen=True, slots=True)
class Way:
    """One way to place the operators so far.

    Attributes:
        seconds: that they take.
        held: bytes on each device whose memory may run out.
        devices: of the last operators that were placed, all of one block.
        before: the way that led there.
    """

    seconds: float
    held: tuple[float, ...]
    devices: tuple[str, ...] = ()
    before: Way | None = None


def kept(ways: Iterable[Way], limits: Sequence[float], most: int) -> list[Way]:
    """The ways that no other is better than: in time and in what every memory holds.

    Args:
        limits: bytes that each memory of ``held`` may hold.
        most: ways to keep, and one more for each memory.
    """
    ordered = sorted(ways, key=lambda way: (way.seconds, way.held))
    if not limits:
        return ordered[:1]
    if len(limits) > 1 and len(ordered) > most:
        ordered = _thinned(ordered, limits, most)
    found: list[Way] = []
    for way in ordered:
        # Of one memory, the last way kept is the one that holds least.
        rivals = found[-1:] if len(limits) == 1 else found
        if not any(_covers(one.held, way.held) for one in rivals):
            found.append(way)
    return found if len(found) <= most else _thinned(found, limits, most)


def _covers(less: tuple[float, ...], more: tuple[float, ...]) -> bool:
    """Whether ``less`` holds no more on any device."""
    return all(a <= b + ROUNDING * b for a, b in zip(less, more, strict=True))


def _thinned(ordered: Sequence[Way], limits: Sequence[float], most: int) -> list[Way]:
    """The fastest way in each bucket of what is held, and the one that holds least of each."""
    least = [_least(ordered, i) for i in range(len(limits))]
    buckets = 2 * most
    while True:
        found: dict[tuple[int, ...], Way] = {}
        for way in ordered:
            shares = (held / limit for held, limit in zip(way.held, limits, strict=True))
            found.setdefault(tuple(int(share * buckets) for share in shares), way)
        if len(found) <= most:
            break
        buckets = buckets * 3 // 4
    chosen = {id(way): way for way in (*found.values(), *least)}
    return sorted(chosen.values(), key=lambda way: (way.seconds, way.held))


def _least(ways: Sequence[Way], i: int) -> Way:
    return min(ways, key=lambda way: way.held[i])
