"""Each operator where it ends first."""

from __future__ import annotations

from dataclasses import dataclass

from servesim.graph.batch import BatchShape
from servesim.graph.opgraph import OpGraph
from servesim.hardware.finish import Finish
from servesim.hardware.placers import PLACERS, Placed, Site


@PLACERS.register("greedy")
@dataclass(frozen=True)
class Greedy:
    """For steps of ``decodes`` decodes of ``context`` tokens; weights take up to ``share``."""

    decodes: int = 64
    context: int = 1024
    share: float = 0.7

    def place(self, graph: OpGraph, site: Site) -> Placed:
        """Where each operator runs: where its inputs have arrived and it has ended first."""
        batch = BatchShape((), self.decodes, self.decodes * self.context, self.context)
        finish = Finish(site, batch, self.share)
        where = {}
        for block in graph.blocks:
            finish.start(block)
            for op in block.ops:
                where[block.name, op.name] = finish.place(op)
        return Placed(graph, where)
