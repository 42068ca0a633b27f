"""LoRA adapters of a scenario: room and work on the device, and the time to bring them there."""

from __future__ import annotations

from servesim.errors import UnsupportedError
from servesim.graph.opgraph import OpGraph
from servesim.graph.passes.adapters import adapter_bytes, with_adapters
from servesim.hardware.device import Device
from servesim.runtime.config import EngineConfig


def adapted(graph: OpGraph, engine: EngineConfig, device: Device) -> OpGraph:
    """``graph``, one rank's, with the adapters that the engine serves.

    Raises:
        UnsupportedError: the device has no link over which adapters could come.
    """
    if not engine.enable_lora:
        return graph
    if device.host_link is None:
        raise UnsupportedError(f"enable_lora: {device.name} has no host_link to load adapters over")
    return with_adapters(graph, engine.max_loras, engine.max_lora_rank)


def adapter_load_seconds(graph: OpGraph, device: Device) -> float:
    """Seconds to bring one adapter from host memory to each rank; 0 without adapters."""
    size, link = adapter_bytes(graph), device.host_link
    if not size or link is None:
        return 0.0
    return link.latency + size / link.bandwidth
