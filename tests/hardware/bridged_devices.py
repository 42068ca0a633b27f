"""Devices whose collectives were measured, and what they take."""

from servesim.graph.work import CollectiveWork
from servesim.hardware.collective_tables import collective_cost
from servesim.hardware.load import load_device

CALIBRATED = ("rtx_pro_6000", "h100_sxm", "h200_sxm", "a100_sxm", "b200_sxm")


def all_reduce(payload, ranks):
    return CollectiveWork("all_reduce", payload, ranks)


def bridged(name):
    """Collectives over the link they were measured over, and the most devices that it joins."""
    device = load_device(name)
    link = device.peer_link if device.peer_link.peer_access else device.host_link
    return collective_cost(device, load_device, link), link.devices or 16
