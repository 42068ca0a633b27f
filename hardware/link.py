"""A link between devices: what a byte and a message cost to send."""

from __future__ import annotations

from dataclasses import dataclass

from servesim.errors import InputError, UnknownNameError
from servesim.hardware.all_reduce import GENERATIONS

#: An hour: nothing on Earth is that far.
_LONGEST_S = 3600.0


@dataclass(frozen=True, slots=True)
class Link:
    """What connects a device to its peers or to its host.

    Raises:
        InputError: a bandwidth that is not positive, or a latency that is negative or hours.
        UnknownNameError: a generation that ``all_reduce.GENERATIONS`` does not know.

    Attributes:
        name: e.g. ``NVLink 4`` or ``PCIe 5.0 x16``.
        bandwidth: data-sheet bytes/s in one direction, for one device.
        latency: seconds from a small message's start to its arrival.
        devices: devices one such fabric joins; None for any number.
        multicast: the switch itself reduces and multicasts (NVLink SHARP).
        generation: of the devices, where it decides what the engine reduces with
            (``hardware/all_reduce.py``); else empty.
        peer_access: devices reach each other's memory. Without it (GPUs under different root
            ports of a host, most virtual machines, consumer cards) every byte is written to host
            memory and read from there; ``bandwidth`` is then what such a detour sustains.
    """

    name: str
    bandwidth: float
    latency: float
    devices: int | None = None
    multicast: bool = False
    generation: str = ""
    peer_access: bool = True

    def __post_init__(self) -> None:
        if not self.bandwidth > 0:
            raise InputError(f"link {self.name}: bandwidth must be positive, not {self.bandwidth}")
        if not self.latency >= 0:
            raise InputError(f"link {self.name}: latency must not be negative: {self.latency}")
        if self.latency > _LONGEST_S:
            raise InputError(
                f"link {self.name}: latency must be at most {_LONGEST_S:g} seconds: {self.latency}"
            )
        if self.generation and self.generation not in GENERATIONS:
            raise UnknownNameError(f"generation of link {self.name}:", self.generation, GENERATIONS)
