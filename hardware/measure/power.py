"""What a GPU draws, where NVML can be asked."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean
from typing import Any

_EVERY_S = 0.05


@dataclass(frozen=True, slots=True)
class Draw:
    """Watts at rest and under a large product, and the limit that the driver enforces."""

    idle: float
    busy: float
    limit: float


def draw(work: Callable[[], object], seconds: float = 2.0) -> Draw | None:
    """The draw before and while ``work`` runs over and over; None where nothing can be read."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        idle = _watts(pynvml, handle)
        readings = []
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            asked = time.monotonic() + _EVERY_S
            while time.monotonic() < asked:
                work()
            readings.append(_watts(pynvml, handle))
        limit = pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1e3
    except pynvml.NVMLError:
        return None
    return Draw(idle, mean(readings[len(readings) // 2 :]), limit)


def _watts(nvml: Any, handle: Any) -> float:
    return float(nvml.nvmlDeviceGetPowerUsage(handle)) / 1e3
