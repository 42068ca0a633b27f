"""How fast the machine is at a moment: a shared one is not always equally fast."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

import numpy as np

#: What bounds the pieces of work: memory, and the core.
LIMITS = ("copy_s", "compute_s")
#: Bytes copied, beyond any cache; and numbers whose sines are taken, within the smallest one.
_COPIED, _COMPUTED = 1 << 27, 1 << 11
_REPEATS = 15
#: Slower by less than this, a machine is as good as equally fast.
NOTICEABLE = 0.02
_COMPUTATIONS = 200


def machine_pace(cores: Sequence[int]) -> dict[str, float]:
    """Seconds of a fixed piece of work on each of two limits, a median of several.

    Args:
        cores: where the work is done, one thread; wherever the system likes if there are none.

    Returns:
        Seconds by the names in ``LIMITS``.
    """
    before = os.sched_getaffinity(0)
    source = np.ones(_COPIED // 8)
    target = np.empty_like(source)
    angles = np.linspace(0.0, 1.0, _COMPUTED)
    sines = np.empty_like(angles)

    def compute() -> None:
        for _ in range(_COMPUTATIONS):
            np.sin(angles, out=sines)

    try:
        os.sched_setaffinity(0, set(cores) or before)
        return {
            "copy_s": _seconds(lambda: np.copyto(target, source)),
            "compute_s": _seconds(compute),
        }
    finally:
        os.sched_setaffinity(0, before)


def slower_by(
    paces: Mapping[str, Sequence[Mapping[str, float]]],
) -> dict[str, float]:
    """By name: how much slower than the fastest of all moments its own were, in the median.

    Returns:
        0.1 for a tenth slower, by the limit that was slower; names without any moment are left out.
    """
    known = {name: moments for name, moments in paces.items() if moments}
    every = [moment for moments in known.values() for moment in moments]
    if not every:
        return {}
    fastest = {limit: min(moment[limit] for moment in every) for limit in LIMITS}
    return {
        name: max(median(m[limit] for m in moments) / least - 1 for limit, least in fastest.items())
        for name, moments in known.items()
    }


def _seconds(work: Callable[[], object]) -> float:
    work()  # touches what is copied to
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return round(median(times), 6)
