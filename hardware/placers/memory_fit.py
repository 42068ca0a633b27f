"""Layers on the fastest memory that still has room."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from servesim.errors import CapacityError
from servesim.graph.opgraph import OpGraph
from servesim.hardware.placers import PLACERS, Placed, Site, by_layers, require_within


@PLACERS.register("memory_fit")
@dataclass(frozen=True)
class MemoryFit:
    """Fills ``share`` of each memory with whole layers, that of most bandwidth first."""

    fills_memory: ClassVar[bool] = True
    share: float = 0.7

    def __post_init__(self) -> None:
        require_within("share", self.share, 0, 1)

    def place(self, graph: OpGraph, site: Site) -> Placed:
        """Where each layer runs; what is outside the layers is on the default device."""
        room = {name: self.share * d.memory.capacity_bytes for name, d in site.devices.items()}
        layers = {n: b for b in graph.blocks for n in b.layers}
        weights = {n: sum(op.spec.weight_bytes for op in b.ops) for n, b in layers.items()}
        room[site.default] -= graph.weight_bytes - sum(weights.values())
        fastest = sorted(room, key=lambda name: -site.devices[name].memory.bandwidth)
        devices: dict[int, str] = {}
        for layer in sorted(weights):
            device = next((name for name in fastest if room[name] >= weights[layer]), None)
            if device is None:
                raise CapacityError(f"layer {layer} of {graph.model} fits no memory any more")
            devices[layer], room[device] = device, room[device] - weights[layer]
        return by_layers(graph, site, devices.__getitem__)
