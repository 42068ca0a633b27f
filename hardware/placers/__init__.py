"""Placers, one file each: which device runs which operator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from typing import Protocol

import numpy as np

from servesim.errors import InputError
from servesim.graph.batch import BatchShape
from servesim.graph.opgraph import Block, OpGraph
from servesim.hardware.cost import CostModel
from servesim.hardware.device import Device
from servesim.hardware.placement import OpKey, Placement, serial_seconds
from servesim.hardware.topology import Topology
from servesim.registry import Registry


@dataclass(frozen=True, slots=True)
class Site:
    """What operators can be placed on.

    Attributes:
        devices: by name, the default one first.
        topology: joins them.
        costs, collectives, outside_bytes, handed, hands_on: as of the ``Placement`` to be made.
        step: seconds of a step on a placement; operators one after another by default.
        parts: of a batch that overlap in a step.
    """

    devices: Mapping[str, Device]
    topology: Topology
    costs: Mapping[str, CostModel] = field(default_factory=dict)
    collectives: CostModel | None = None
    outside_bytes: float = 0.0
    handed: bool = False
    hands_on: bool = False
    step: Callable[[Placement, BatchShape], float] = serial_seconds
    parts: int = 1

    @property
    def default(self) -> str:
        """The device of what is not placed elsewhere."""
        return next(iter(self.devices))

    def cost_model(self, name: str) -> CostModel:
        """The cost model of the device called ``name``."""
        return self.costs.get(name) or self.devices[name].cost_model

    def placement(self, placed: Placed) -> Placement:
        """``placed`` on these devices.

        Raises:
            ServesimError: as ``Placement``.
        """
        where = {key: name for key, name in placed.where.items() if name != self.default}
        return Placement(
            placed.graph,
            self.devices,
            self.default,
            where,
            self.topology,
            costs=self.costs,
            collectives=self.collectives,
            outside_bytes=self.outside_bytes,
            handed=self.handed,
            hands_on=self.hands_on,
        )


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

#: Relative error that sums of seconds or bytes may have: less is no difference.
ROUNDING = 1e-9

#: More than any step has.
_MOST_DECODES, _MOST_TOKENS = 10**6, 10**8


def require_within(name: str, value: float, least: float, most: float) -> None:
    """Refuse an option of a placer that is out of its range.

    Raises:
        InputError: it is.
    """
    if not least <= value <= most:
        raise InputError(f"[placement] {name} must be from {least} to {most}, not {value}")


def typical_step(decodes: int, context: int, prefill_tokens: int = 0) -> BatchShape:
    """A step of ``decodes`` decodes of ``context`` tokens each, beside a chunk of a prompt.

    Raises:
        InputError: a count that no step has.
    """
    require_within("decodes", decodes, 1, _MOST_DECODES)
    require_within("context", context, 1, _MOST_TOKENS)
    require_within("prefill_tokens", prefill_tokens, 0, _MOST_TOKENS)
    prefills = ((prefill_tokens, 0),) if prefill_tokens else ()
    contexts = np.full(decodes, context, dtype=np.int64)
    return BatchShape(prefills, decodes, decodes * context, context, contexts)


def by_layers(graph: OpGraph, site: Site, device_of: Callable[[int], str]) -> Placed:
    """Each layer on ``device_of(layer)``; what is outside the layers on the default device."""

    def where_of(block: Block, layer: int | None) -> tuple[str, ...]:
        name = site.default if layer is None else device_of(layer)
        return (name,) * len(block.ops)

    return divided(graph, where_of)


def divided(graph: OpGraph, where_of: Callable[[Block, int | None], tuple[str, ...]]) -> Placed:
    """``graph`` with its blocks divided where the operators of their layers go apart.

    Args:
        where_of: devices of a block's operators in one of its layers; in None outside the layers.
    """
    blocks: list[Block] = []
    where: dict[OpKey, str] = {}
    for block in graph.blocks:
        of_layers = groupby(block.layers, partial(where_of, block))
        runs = [(names, tuple(layers)) for names, layers in of_layers]
        for i, (names, layers) in enumerate(runs or [(where_of(block, None), ())]):
            part = replace(block, name=f"{block.name}/{i}" if i else block.name, layers=layers)
            blocks.append(part)
            named = zip(block.ops, names, strict=True)
            where.update({(part.name, op.name): name for op, name in named})
    return Placed(replace(graph, blocks=tuple(_ordered(blocks))), where)


def _ordered(blocks: Iterable[Block]) -> list[Block]:
    """Blocks of layers by their first layer, between what stands before and after the layers."""
    blocks = list(blocks)
    layered = iter(sorted((b for b in blocks if b.layers), key=lambda block: block.layers[0]))
    return [next(layered) if block.layers else block for block in blocks]
