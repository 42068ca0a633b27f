"""A device of round numbers, and the same as forms see it."""

from __future__ import annotations

from servesim.hardware.device import Device, MemoryTier
from servesim.hardware.forms.machine import Machine

DEVICE = Device(
    name="toy",
    kind="gpu",
    peak_flops={"bf16": 100e12},
    memory=MemoryTier("HBM", 1e10, 1e12),
    cache=MemoryTier("L2", 1e7, 4e12),
    cores=100,
)
MACHINE = Machine(100e12, 1e12, 1e7, 100)
