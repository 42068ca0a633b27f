"""What a machine can do, as its data sheet says: arithmetic, memories, links, power."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from servesim.errors import InputError, UnknownNameError, UnsupportedError
from servesim.graph.dtypes import BITS
from servesim.hardware.cost import CostModel
from servesim.hardware.host import HostTime
from servesim.hardware.link import Link

#: Kinds of device servesim tells apart.
KINDS = ("gpu", "tpu", "npu", "pim", "cpu")


@dataclass(frozen=True, slots=True)
class MemoryTier:
    """A memory of a device: usable bytes, and bytes/s of reads and writes together."""

    name: str
    capacity_bytes: float
    bandwidth: float


@dataclass(frozen=True, slots=True)
class Efficiency:
    """What kernels reach of the data sheet when nothing better is known of a device.

    Attributes:
        compute: share of peak arithmetic a large GEMM reaches.
        memory: share of peak bandwidth a large copy reaches.
        launch: seconds from one kernel's end to the next one's start inside a captured graph,
            plus what it takes to fill and drain the device.
    """

    compute: float = 0.75
    memory: float = 0.85
    launch: float = 2.5e-6

    def __post_init__(self) -> None:
        for what, share in (("compute", self.compute), ("memory", self.memory)):
            if not 0 < share <= 1:
                raise InputError(f"efficiency: {what} must be within (0, 1], not {share}")
        if not self.launch >= 0:
            raise InputError(f"efficiency: launch must not be negative: {self.launch}")


@dataclass(frozen=True)
class Device:
    """One accelerator (or host) as bought: a frozen description, no behaviour but a cost model.

    Attributes:
        peak_flops: dense FLOP/s by number format; a format that is absent cannot be computed in.
        cache: the last-level cache, where there is a large one.
        cores: units that work goes to in waves (SMs, CUs, tensor cores of a TPU, CPU cores).
        host_link: to the CPU and its memory.
        scale_up: to peers (NVLink, Infinity Fabric, ICI); None where peers talk over the host
            link.
        host: what engines measured on it took of a step beside the operators; None if not known.
        power: the device file's ``[power]`` table: fields of ``AcceleratorPower`` that are known.
        calibration: the device file's ``[calibration]`` table, as written.
        measured: the device file's ``[measured]`` table, as written.
        pim: the device file's ``[pim]`` table: fields of ``PimArray``.
        costs: the device's own cost model; None for the roofline of the data sheet.
    """

    name: str
    kind: str
    peak_flops: Mapping[str, float]
    memory: MemoryTier
    title: str = ""
    cache: MemoryTier | None = None
    cores: int = 1
    clock_hz: float = 0.0
    host_link: Link | None = None
    scale_up: Link | None = None
    tdp_watts: float = 0.0
    idle_watts: float = 0.0
    price_usd: float | None = None
    efficiency: Efficiency = field(default_factory=Efficiency)
    host: HostTime | None = None
    power: Mapping[str, Any] = field(default_factory=dict, repr=False)
    calibration: Mapping[str, Any] = field(default_factory=dict, repr=False)
    measured: Mapping[str, Any] = field(default_factory=dict, repr=False)
    pim: Mapping[str, Any] = field(default_factory=dict, repr=False)
    costs: CostModel | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"device {self.name}: kind is {self.kind!r}, not one of {KINDS}")
        for dtype in self.peak_flops:
            if dtype not in BITS:
                raise UnknownNameError(f"number format of peak_flops of {self.name}:", dtype, BITS)
        tiers = (self.memory, self.cache) if self.cache is not None else (self.memory,)
        for what, value in (
            *(("capacity_bytes", tier.capacity_bytes) for tier in tiers),
            *(("bandwidth", tier.bandwidth) for tier in tiers),
            ("cores", self.cores),
            *self.peak_flops.items(),
        ):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise InputError(f"device {self.name}: {what} must be a number, not {value!r}")
            if not 0 < value < math.inf:
                raise InputError(f"device {self.name}: {what} must be positive, not {value}")

    @property
    def peer_link(self) -> Link | None:
        """The link to its peers: ``scale_up``, or the host link where there is none."""
        return self.scale_up or self.host_link

    @property
    def cache_bytes(self) -> float:
        """Capacity of the last-level cache; 0 without one."""
        return self.cache.capacity_bytes if self.cache else 0.0

    def flops_for(self, dtype: str) -> float:
        """Peak dense FLOP/s in ``dtype``.

        Raises:
            UnsupportedError: the device cannot compute in this format.
        """
        if dtype not in self.peak_flops:
            known = ", ".join(sorted(self.peak_flops))
            raise UnsupportedError(f"{self.name} cannot compute in {dtype} (it can in {known})")
        return self.peak_flops[dtype]

    @cached_property
    def cost_model(self) -> CostModel:
        """The device's own cost model, or the roofline of its data sheet."""
        from servesim.hardware.roofline import RooflineCost

        return self.costs or RooflineCost(self)
