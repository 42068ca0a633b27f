"""Ranges of layers on a device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from servesim.errors import InputError
from servesim.graph.opgraph import OpGraph
from servesim.hardware.placers import PLACERS, Placed, Site, by_layers


@PLACERS.register("by_layer")
@dataclass(frozen=True)
class ByLayer:
    """``layers``: device by range of layers, first and last (``"16-31"``)."""

    layers: Mapping[str, str]

    def place(self, graph: OpGraph, site: Site) -> Placed:
        """Where each layer runs."""
        devices: dict[int, str] = {}
        for text, device in self.layers.items():
            first, _, last = text.partition("-")
            if not (first.isdigit() and (last or first).isdigit()):
                raise InputError(f"layers are given as first-last, not {text!r}")
            if not int(first) <= int(last or first) < graph.num_layers:
                raise InputError(f"{graph.model} has layers 0 to {graph.num_layers - 1}: {text!r}")
            layers = range(int(first), int(last or first) + 1)
            twice = next((layer for layer in layers if layer in devices), None)
            if twice is not None:
                raise InputError(f"layer {twice} is placed twice: on {devices[twice]} and {device}")
            devices |= dict.fromkeys(layers, device)
        return by_layers(graph, site, lambda layer: devices.get(layer, site.default))
