"""Power settings of a scenario: clocks and caps before a run, its energy after it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from servesim.errors import InputError
from servesim.graph.batch import BatchShape
from servesim.graph.op import TOKENS
from servesim.hardware.cost import CostModel
from servesim.hardware.device import Device
from servesim.hardware.placement import Placement
from servesim.hardware.power.accelerator import AcceleratorPower, accelerator_power
from servesim.hardware.power.clock import ClockedCost, power_at_clock
from servesim.hardware.power.server import ServerPower, server_power
from servesim.runtime.energy.account import Powered
from servesim.runtime.energy.capped import CappedStepModel
from servesim.runtime.energy.report import EnergyReport, energy_report
from servesim.runtime.energy.use import HOST_READS, OpUse, compile_use, use_is_known
from servesim.runtime.expert_offload_step import ExpertOffloadStepModel
from servesim.runtime.records import Records
from servesim.runtime.step_model import CompiledStepModel
from servesim.scenario.sections import HardwareSection, PowerSection

if TYPE_CHECKING:
    from servesim.scenario.build import Deployment, Served

#: Lines of power over time beyond which the resolution must be a mistake.
_MOST_LINES = 10_000_000


def clock_share(section: HardwareSection, device: Device) -> float:
    """The clock of the devices as a share of their highest.

    Raises:
        InputError: the clock is not positive, above the highest, or that is not known.
    """
    if section.clock_mhz is None:
        return 1.0
    share = section.clock_mhz * 1e6 / device.clock_hz if device.clock_hz else 0.0
    if not 0.0 < share <= 1.0:
        raise InputError(
            f"clock_mhz must be above 0 and at most the {device.clock_hz / 1e6:.0f} MHz of"
            f" {device.name}, not {section.clock_mhz:g}"
        )
    return share


def clocked_costs(
    section: HardwareSection, device: Device, costs: CostModel | None
) -> CostModel | None:
    """``costs``, or the device's own, at the section's clock; None for the device's own as is.

    Raises:
        InputError: as ``clock_share``.
    """
    share = clock_share(section, device)
    return costs if share == 1.0 else ClockedCost(costs or device.cost_model, device, share)


def powered_step_model(
    section: HardwareSection, device: Device, placement: Placement, capture_sizes: Sequence[int]
) -> CompiledStepModel:
    """The step model of ``placement``, within the devices' own power limit or the section's cap.

    Models that are not fused know no limit of their own: what they draw is not known.

    Raises:
        InputError: the cap cannot be kept, or what the device draws is not known.
        UnsupportedError: a cap of a model that is not fused.
    """
    power = device_power(section, device)
    if section.power_limit_watts is None and not use_is_known(placement):
        power = None
    if power is not None:
        return CappedStepModel.under(placement, power, capture_sizes=capture_sizes)
    if section.power_limit_watts is not None:
        raise InputError(f"what {device.name} draws is not known: give [hardware] power, too")
    return CompiledStepModel.compile(placement, capture_sizes=capture_sizes)


def device_power(section: HardwareSection, device: Device) -> AcceleratorPower | None:
    """What one of the section's devices draws; None when nothing is known of it.

    Raises:
        InputError: a value cannot be used.
    """
    if not device.tdp_watts and not device.power and not section.power:
        return None
    power = accelerator_power(device, section.power, section.power_limit_watts)
    share = clock_share(section, device)
    return power if share == 1.0 else power_at_clock(power, share)


def energy_of(
    deployment: Deployment, records: Records, until_s: float | None = None
) -> EnergyReport | None:
    """The energy of a run of ``deployment``; None when nothing is known of a device's power.

    Args:
        until_s: end of the time that counts, if it is after the last step.
    """
    powered: list[Powered] = []
    for one in deployment.served:
        found = _powered(one)
        if found is None:
            return None
        powered += [found] * len(one.engines)
    return energy_report(records, powered, servers(deployment.scenario.power), until_s)


def servers(section: PowerSection) -> ServerPower:
    """What is around the accelerators.

    Raises:
        InputError: a key or value cannot be used.
    """
    return server_power({name: getattr(section, name) for name in ServerPower.__dataclass_fields__})


def power_lines(energy: EnergyReport | None, resolution_s: float) -> Iterator[str]:
    """Power over time as CSV: the start of each interval, and the mean watts in it.

    Raises:
        InputError: it is not known, or the resolution far too fine.
    """
    if energy is None:
        raise InputError("what the devices draw is not known: give [hardware] power")
    if energy.seconds > _MOST_LINES * resolution_s:
        raise InputError(
            f"[power] resolution_s {resolution_s:g} is too fine for {energy.seconds:.0f} s:"
            f" more than {_MOST_LINES:,} lines"
        )
    edges = np.append(np.arange(0.0, energy.seconds, resolution_s), energy.seconds)
    yield "time_s,watts\n"
    for start, watts in zip(edges[:-1], energy.watts(edges), strict=True):
        yield f"{start:.10g},{watts:.6g}\n"


def _powered(served: Served) -> Powered | None:
    if not all(map(use_is_known, served.placements)):
        return None
    if served.beside or served.instance.role == "encode":
        return None  # several engines share those devices; or its steps count no patches
    section, powers = served.instance.hardware, {}
    uses = tuple(use for one in served.placements for use in compile_use(one))
    devices = {name: device for one in served.placements for name, device in one.devices.items()}
    for name, device in devices.items():
        own = section if device is served.device else HardwareSection()
        power = device_power(own, device)
        if power is None:
            return None
        powers[name] = power
    return Powered((*uses, *_host_reads(served)), powers, served.ranks)


def _host_reads(served: Served) -> tuple[OpUse, ...]:
    """Experts that a device gets over the link to its host."""
    model = served.step_model
    if not isinstance(model, ExpertOffloadStepModel):
        return ()

    def at(batch: BatchShape) -> tuple[float, float, float, float]:
        seconds, moved = model.fetched(batch)
        return 0.0, 0.0, moved, max(seconds, 0.0)

    return (OpUse(served.placement.default, HOST_READS, TOKENS, None, at),)
