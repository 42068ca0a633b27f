"""Drop arithmetic that nothing reads: statistics for training, copies of states."""

from __future__ import annotations

from servesim.graph.ir import TraceGraph, drop
from servesim.graph.passes.roles import is_anchor, is_carrier


def drop_dead(graph: TraceGraph) -> None:
    """Keep what the result, a cache write or a kernel is made of.

    Kernels stay even if nothing reads them: some code hands their results on by ways of its own.
    """
    if not graph.outputs:
        return
    live = {*graph.outputs, *(n.id for n in graph if is_anchor(n) or is_carrier(n))}
    pending = list(live)
    while pending:
        for i in graph.nodes[pending.pop()].inputs:
            if i not in live:
                live.add(i)
                pending.append(i)
    drop(graph, graph.nodes.keys() - live)
