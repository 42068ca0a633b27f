"""What no kernel can beat, however good: a device's peak arithmetic and its memory's bandwidth."""

from __future__ import annotations

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


def bounded_seconds(work: Work, device: Device, seconds: float) -> float:
    """``seconds``, or what ``work`` takes at least.

    Kernels that move data are bounded by memory alone: what little they compute, units beside
    those of ``peak_flops`` do.

    Raises:
        UnsupportedError: the device cannot compute in its format.
    """
    least = 0.0 if work.family == "memory" else arithmetic_seconds(work, device)
    return max(seconds, least, memory_seconds(work, device))
