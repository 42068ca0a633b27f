"""Each operator where it ends first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from servesim.graph.opgraph import Block, OpGraph
from servesim.hardware.finish import Finish
from servesim.hardware.placers import PLACERS, Placed, Site, divided, require_within, typical_step


@PLACERS.register("greedy")
@dataclass(frozen=True)
class Greedy:
    """For steps of ``decodes`` decodes of ``context`` tokens; weights take up to ``share``.

    Layers go the same way as long as they fit; where a memory is full, their block is divided.
    """

    fills_memory: ClassVar[bool] = True

    decodes: int = 64
    context: int = 1024
    share: float = 0.7

    def __post_init__(self) -> None:
        require_within("share", self.share, 0, 1)

    def place(self, graph: OpGraph, site: Site) -> Placed:
        """Where each operator runs: where its inputs have arrived and it has ended first.

        Raises:
            CapacityError: it fits no memory.
        """
        batch = typical_step(self.decodes, self.context)
        finish = Finish(site, batch, self.share)
        names = {block.name: finish.layers(block) for block in graph.blocks}

        def where_of(block: Block, layer: int | None) -> tuple[str, ...]:
            return names[block.name][0 if layer is None else block.layers.index(layer)]

        return divided(graph, where_of)
