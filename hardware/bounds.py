"""What no kernel can beat, however good: a device's peak arithmetic and its memory's bandwidth."""

from __future__ import annotations

from servesim.errors import UnsupportedError
from servesim.graph.work import Work
from servesim.hardware.device import Device
from servesim.hardware.shared_keys import near_bytes


def arithmetic_seconds(work: Work, device: Device) -> float:
    """Seconds that peak arithmetic needs for ``work``.

    Raises:
        UnsupportedError: the device cannot compute in its format.
    """
    return work.flops / device.flops_for(work.dtype) if work.flops else 0.0


def memory_seconds(work: Work, device: Device) -> float:
    """Seconds that memory needs to deliver what the last-level cache cannot have held.

    That is all but as many bytes as it holds, and but keys of which it delivers repeated reads.
    """
    moved = work.bytes_read + work.bytes_written
    far = moved - device.cache_bytes - near_bytes(work, device.cache)
    return max(0.0, far) / device.memory.bandwidth


def least_seconds(work: Work, device: Device) -> float:
    """What ``work`` takes at least.

    Not held to arithmetic are formats without a peak, and kernels that move data: what little these
    compute, units beside those of ``peak_flops`` do.
    """
    try:
        compute = 0.0 if work.family == "memory" else arithmetic_seconds(work, device)
    except UnsupportedError:
        compute = 0.0
    return max(compute, memory_seconds(work, device))
