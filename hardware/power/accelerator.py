"""What one accelerator draws: idle, standing by, and while it computes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from servesim.errors import InputError
from servesim.hardware.device import Device
from servesim.hardware.load import build

#: Share of the rated power drawn beside the work itself while kernels run; and added by memory at
#: full bandwidth and by arithmetic at its peak. Fitted by ``servesim validate energy`` to 405
#: configurations of vLLM on H100 (ML.ENERGY v3): 320 W, 215 W and 540 W of 700 W.
ACTIVE_SHARE, MEMORY_SHARE, COMPUTE_SHARE = 0.457, 0.307, 0.771
#: Standing by, above idle: an estimate for devices of which nothing is known.
STANDBY_SHARE = 0.1
#: Seconds of standby after the last kernel, as measured on an RTX A6000 (LLMServingSim 2.0).
STANDBY_S = 18.0


@dataclass(frozen=True, slots=True)
class AcceleratorPower:
    """``active + memory·(share of bandwidth) + compute·(share of peak)``, at most ``limit``.

    The shares are of the data sheet's peaks, over the whole step; arithmetic in a narrower format
    has a higher peak and so takes less energy a FLOP.

    Attributes:
        idle_watts: nothing has run for a while.
        standby_watts: for ``standby_s`` seconds after a kernel: clocks are still up.
        active_watts: kernels run, before what their work adds.
        memory_watts: added at full memory bandwidth.
        compute_watts: added at peak arithmetic.
        limit_watts: the device slows down rather than draw more.

    Raises:
        InputError: a value is negative, or no kernel could run within the limit.
    """

    idle_watts: float
    standby_watts: float
    standby_s: float
    active_watts: float
    memory_watts: float
    compute_watts: float
    limit_watts: float

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if not (value := getattr(self, field.name)) >= 0:
                raise InputError(f"power: {field.name} must not be negative, not {value:g}")
        if self.limit_watts <= self.idle_watts:
            raise InputError(
                f"power: a limit of {self.limit_watts:g} W leaves nothing above the"
                f" {self.idle_watts:g} W that the device draws idle"
            )

    def work_joules(self, memory_s: float, compute_s: float) -> float:
        """Energy of work that would take so long at full bandwidth, and at peak arithmetic."""
        return self.memory_watts * memory_s + self.compute_watts * compute_s


def accelerator_power(
    device: Device, given: Mapping[str, Any] | None = None, limit_watts: float | None = None
) -> AcceleratorPower:
    """The power of ``device``: ``given`` over its file's ``[power]`` over shares of its TDP.

    Args:
        given: fields of ``AcceleratorPower``.
        limit_watts: a power cap below the device's own limit.

    Raises:
        UnknownNameError: a key that is no field.
        InputError: a value cannot be used.
    """
    tdp = device.tdp_watts
    estimate = {
        "idle_watts": device.idle_watts,
        "standby_watts": device.idle_watts + STANDBY_SHARE * tdp,
        "standby_s": STANDBY_S,
        "active_watts": max(device.idle_watts, ACTIVE_SHARE * tdp),
        "memory_watts": MEMORY_SHARE * tdp,
        "compute_watts": COMPUTE_SHARE * tdp,
        "limit_watts": tdp,
    }
    values = {**estimate, **device.power, **(given or {})}
    values.pop("source", None)
    if limit_watts is not None:
        values["limit_watts"] = min(limit_watts, values["limit_watts"])
    return build(AcceleratorPower, values, f"power of {device.name}")
