"""A link between devices: what a byte and a message cost to send."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Link:
    """What connects a device to its peers or to its host.

    Attributes:
        name: e.g. ``NVLink 4`` or ``PCIe 5.0 x16``.
        bandwidth: data-sheet bytes/s in one direction, for one device.
        latency: seconds from a small message's start to its arrival.
        devices: devices one such fabric joins; None for any number.
        multicast: the switch itself reduces and multicasts (NVLink SHARP).
    """

    name: str
    bandwidth: float
    latency: float
    devices: int | None = None
    multicast: bool = False

    def send_seconds(self, payload_bytes: float) -> float:
        """Seconds to move ``payload_bytes`` across, at data-sheet bandwidth."""
        return self.latency + payload_bytes / self.bandwidth
