"""Clocks: how time and power follow a lower frequency.

Dynamic power is activity·f·V² and the voltage falls with the frequency down to a floor (Rabaey,
Digital Integrated Circuits, ch. 5). Memory has a clock of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from servesim.graph.work import Work
from servesim.hardware.cost import Cost, CostModel, kernels_alone
from servesim.hardware.device import Device
from servesim.hardware.power.accelerator import AcceleratorPower
from servesim.hardware.roofline import FAMILIES, RooflineCost

#: Share of the voltage that is left at the lowest clocks: an estimate.
VOLTAGE_FLOOR = 0.6
#: The lowest clock a cap leads to, as a share of the highest.
LOWEST_CLOCK = 0.2


@dataclass(frozen=True, slots=True)
class ClockedCost:
    """The costs of ``base`` on ``device`` at a share of its clock.

    A kernel slows down as its roofline does: bound by arithmetic by the whole factor, bound by
    memory not at all. Its launch keeps its time, being the host's.
    """

    base: CostModel
    device: Device
    share: float

    @property
    def kernels_alone(self) -> bool:
        """As ``base``: gaps between kernels do not depend on the clock."""
        return kernels_alone(self.base)

    def cost(self, work: Work) -> Cost:
        """The cost of ``work`` at the lower clock.

        Raises:
            UnsupportedError: as ``base``.
        """
        cost = self.base.cost(work)
        if work.family not in FAMILIES or self.share == 1.0:
            return cost
        full = RooflineCost(self.device).cost(work).seconds
        slowed = RooflineCost(at_clock(self.device, self.share)).cost(work).seconds
        return Cost(cost.seconds * (slowed / full if full else 1.0), cost.source)


def at_clock(device: Device, share: float) -> Device:
    """``device`` with its arithmetic at ``share`` of the clock; its memory is as before."""
    peaks = {dtype: peak * share for dtype, peak in device.peak_flops.items()}
    return replace(device, peak_flops=peaks, clock_hz=device.clock_hz * share)


def power_at_clock(power: AcceleratorPower, share: float) -> AcceleratorPower:
    """``power`` at ``share`` of the clock.

    What kernels draw beside their work follows f·V². Energy a FLOP follows V²; as the work of a
    step is counted in seconds at the *full* clock's peak, ``compute_watts`` follows it, too.
    """
    voltage = VOLTAGE_FLOOR + (1.0 - VOLTAGE_FLOOR) * share
    beside = (power.active_watts - power.idle_watts) * share * voltage**2
    return replace(
        power,
        active_watts=power.idle_watts + beside,
        compute_watts=power.compute_watts * voltage**2,
    )
