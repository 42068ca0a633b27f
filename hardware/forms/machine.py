"""What the forms know of a device, and the two shapes they share."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Machine:
    """A device as the forms see it, for one number format.

    Attributes:
        flops: peak dense FLOP/s in the format of the arithmetic.
        bandwidth: peak bytes/s of device memory.
        cache_bytes: capacity of the last-level cache (0 without one).
        cores: units that tiles of work go to in waves (SMs, CUs, tensor cores).
        cache_bandwidth: bytes/s of the last-level cache (0 without one).
    """

    flops: float
    bandwidth: float
    cache_bytes: float
    cores: int
    cache_bandwidth: float = 0.0


def blended_max(a: float, b: float, sharpness: float) -> float:
    """``(a^s + b^s)^(1/s)``: the larger of two overlapping times, more where they meet."""
    if a < b:
        a, b = b, a
    if a == 0.0:
        return 0.0
    return a * math.pow(1.0 + math.pow(b / a, sharpness), 1.0 / sharpness)


def step_keys(most: float, room: float, width: int) -> float:
    """Keys that a tile goes through in a step: at most ``most``.

    With ``room`` for so many elements of them, heads of ``width`` elements leave fewer: the largest
    power of two that fits.
    """
    return min(most, 2.0 ** math.floor(math.log2(room / width))) if room else most


def waves(units: float, smoothing: float) -> float:
    """Rounds it takes to work off ``units`` rounds' worth of equal tiles.

    Whole rounds without smoothing; with ``smoothing`` 1 a started round costs only its share, as
    when tiles of one round overlap with the next (stream-K, persistent kernels). Never below one.
    """
    if units <= 1.0:
        return 1.0
    return smoothing * units + (1.0 - smoothing) * math.ceil(units - 1e-9)
