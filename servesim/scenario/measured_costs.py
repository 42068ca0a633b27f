"""What was measured of an instance's hardware, in place of the device's own costs."""

from __future__ import annotations

from servesim.errors import InputError
from servesim.graph.opgraph import OpGraph
from servesim.hardware import load as hardware
from servesim.hardware.collective_tables import collective_cost
from servesim.hardware.collectives import CollectiveCost
from servesim.hardware.cost import CostModel
from servesim.hardware.device import Device
from servesim.hardware.tables.collectives import load_collectives
from servesim.hardware.tables.profile import load_profile
from servesim.hardware.tables.sizes import SIZES
from servesim.models.config import builtin
from servesim.scenario.sections import HardwareSection
from servesim.scenario.system import topology_collectives


def measured_costs(
    section: HardwareSection, device: Device, graph: OpGraph
) -> tuple[CostModel | None, CostModel | None]:
    """What stands in for the device's own costs: of its kernels, and of its collectives.

    Raises:
        ServesimError: a profile, table, link or topology cannot be used.
    """
    kernels: CostModel | None = None
    if section.profile is None and section.profile_model is not None:
        raise InputError("[hardware] profile_model: there is no profile to take it from")
    if section.profile is not None:
        kernels = load_profile(section.profile, graph, device, section.profile_model, _sizes_of)
    return kernels, _collectives(section, device)


def _sizes_of(model: str) -> dict[str, int] | None:
    """The sizes that ``config.json`` says of a model with a built-in one."""
    config = builtin(model)
    if config is None:
        return None
    values = config.language_values
    return {name: values[name] for name in SIZES if isinstance(values.get(name), int)}


def _collectives(section: HardwareSection, device: Device) -> CostModel | None:
    """Those of the device itself when None."""
    link = device.peer_link
    if section.link is not None:
        link = hardware.given_link(section.link, "[hardware] link")
    if section.topology is not None:
        if section.collectives is not None:
            raise InputError("[hardware] collectives and topology: what was measured has its own")
        return topology_collectives(section.topology, link)
    given = CollectiveCost(link) if section.link is not None and link else None
    if section.collectives is None:
        return given
    if link is None:
        raise InputError("[hardware] collectives need a link: the device has none of its own")
    fallback = given or collective_cost(device, hardware.load_device)
    return load_collectives(section.collectives, link, fallback, device.name)
