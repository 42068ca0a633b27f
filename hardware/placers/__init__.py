"""Placers, one file each: which device runs which operator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Protocol

from servesim.graph.opgraph import Block, OpGraph
from servesim.hardware.device import Device
from servesim.hardware.placement import OpKey
from servesim.hardware.topology import Topology
from servesim.registry import Registry


@dataclass(frozen=True, slots=True)
class Site:
    """What operators can be placed on.

    Attributes:
        devices: by name, the default one first.
        topology: joins them.
    """

    devices: Mapping[str, Device]
    topology: Topology

    @property
    def default(self) -> str:
        """The device of what is not placed elsewhere."""
        return next(iter(self.devices))


@dataclass(frozen=True, slots=True)
class Placed:
    """The answer of a placer.

    Attributes:
        graph: the graph; blocks whose layers go to different devices are divided.
        where: device of each operator; of those left out, the default one.
    """

    graph: OpGraph
    where: Mapping[OpKey, str]


class Placer(Protocol):
    """Places the operators of a graph."""

    def place(self, graph: OpGraph, site: Site) -> Placed:
        """Where each operator runs.

        Raises:
            UnknownNameError: an option names a device, layer or operator that is not there.
        """


PLACERS: Registry[Placer] = Registry("placer", "servesim.hardware.placers")


def by_layers(graph: OpGraph, site: Site, device_of: Callable[[int], str]) -> Placed:
    """Each layer on ``device_of(layer)``; what is outside the layers on the default device."""
    blocks: list[Block] = []
    where: dict[OpKey, str] = {}
    for block in graph.blocks:
        runs = [(name, tuple(layers)) for name, layers in groupby(block.layers, device_of)]
        for i, (name, layers) in enumerate(runs):
            part = replace(block, name=f"{block.name}/{i}" if i else block.name, layers=layers)
            blocks.append(part)
            if name != site.default:
                where.update({(part.name, op.name): name for op in block.ops})
        if not runs:
            blocks.append(block)
    return Placed(replace(graph, blocks=tuple(_ordered(blocks))), where)


def _ordered(blocks: Iterable[Block]) -> list[Block]:
    """Blocks of layers by their first layer, between what stands before and after the layers."""
    blocks = list(blocks)
    layered = iter(sorted((b for b in blocks if b.layers), key=lambda block: block.layers[0]))
    return [next(layered) if block.layers else block for block in blocks]
