"""The server around the accelerators: each part's own draw, and what its traffic adds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from servesim.errors import InputError, UnknownNameError
from servesim.hardware.load import build

_BITS = 8.0 * 1e-12  # joules per byte, of picojoules per bit


@dataclass(frozen=True, slots=True)
class Cpu:
    """Host processors of a server, all sockets together.

    Attributes:
        idle_watts, active_watts: at rest, and with every core busy.
        utilization: mean share in use while the server is up: an engine polls when it waits.
        serving_utilization: share in use while steps run; ``utilization`` when None.
    """

    idle_watts: float = 0.0
    active_watts: float = 0.0
    utilization: float = 0.0
    serving_utilization: float | None = None

    def watts(self, serving: float) -> float:
        """Draw when steps run for the share ``serving`` of the time."""
        busy = self.utilization if self.serving_utilization is None else self.serving_utilization
        used = self.utilization + serving * (busy - self.utilization)
        return self.idle_watts + used * (self.active_watts - self.idle_watts)


@dataclass(frozen=True, slots=True)
class Dram:
    """Host memory: refresh by capacity, energy by traffic."""

    capacity_bytes: float = 0.0
    dimm_bytes: float = 32e9
    idle_watts: float = 0.0
    picojoules_per_bit: float = 0.0

    @property
    def watts(self) -> float:
        """Draw of all DIMMs without traffic."""
        return math.ceil(self.capacity_bytes / self.dimm_bytes) * self.idle_watts

    def joules(self, traffic_bytes: float) -> float:
        """Energy of moving ``traffic_bytes``."""
        return traffic_bytes * self.picojoules_per_bit * _BITS


@dataclass(frozen=True, slots=True)
class Ports:
    """``count`` links, switches, network cards or drives, each drawing ``idle_watts``."""

    count: int = 0
    idle_watts: float = 0.0
    picojoules_per_bit: float = 0.0

    @property
    def watts(self) -> float:
        """Draw of all without traffic."""
        return self.count * self.idle_watts

    def joules(self, traffic_bytes: float) -> float:
        """Energy of moving ``traffic_bytes``."""
        return traffic_bytes * self.picojoules_per_bit * _BITS


@dataclass(frozen=True, slots=True)
class ServerPower:
    """``count`` equal servers and the building around them.

    Attributes:
        base_watts: of one server: board, fans, losses of the power supply.
        pue: power usage effectiveness: what the building draws for each watt of a server.

    Raises:
        InputError: a PUE below 1, or fewer than one server.
    """

    count: int = 1
    base_watts: float = 0.0
    cpu: Cpu = field(default_factory=Cpu)
    dram: Dram = field(default_factory=Dram)
    link: Ports = field(default_factory=Ports)
    nic: Ports = field(default_factory=Ports)
    storage: Ports = field(default_factory=Ports)
    pue: float = 1.0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"power: there must be at least one server, not {self.count}")
        if not self.pue >= 1.0:
            raise InputError(f"power: pue must be at least 1, not {self.pue}")


_PARTS: Mapping[str, type] = {
    "cpu": Cpu, "dram": Dram, "link": Ports, "nic": Ports, "storage": Ports
}  # fmt: skip


def server_power(table: Mapping[str, Any]) -> ServerPower:
    """From a table with the keys of ``ServerPower``, its parts as tables of their own.

    Raises:
        UnknownNameError: an unknown key.
        InputError: a value cannot be used.
    """
    values = dict(table)
    known = ServerPower.__dataclass_fields__
    for key in values:
        if key not in known:
            raise UnknownNameError("key in [power]", key, known)
    for name, cls in _PARTS.items():
        if name in values:
            values[name] = build(cls, values[name], f"[power.{name}]")
    return ServerPower(**values)
