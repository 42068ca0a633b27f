"""Per-head norms of queries and keys become one kernel."""

from __future__ import annotations

from collections import defaultdict

from servesim.graph.ir import Node, TraceGraph, drop, replace_inputs
from servesim.graph.passes.roles import is_mixer, sinks
from servesim.graph.passes.simplify import parameters_of


def merge_norms(graph: TraceGraph) -> None:
    """Merge norms of single heads that read the same projection and serve the same attention."""
    users = graph.users()
    groups: dict[tuple[object, ...], list[Node]] = defaultdict(list)
    for node in graph:
        if node.target == "norm" and node.layer is not None:
            served = tuple(i for i in sinks(graph, users, node.id) if is_mixer(graph.nodes[i]))
            widths = [graph.nodes[i].attrs.get("head_dim") for i in served]
            if served and node.attrs["width"] in widths:
                groups[node.inputs, node.attrs["width"], served].append(node)
    for first, *rest in groups.values():
        for node in rest:
            first.attrs["groups"] += node.attrs["groups"]
            first.attrs["parameters"] = parameters_of(first) | parameters_of(node)
        replace_inputs(graph, {n.id: first.id for n in rest})
        drop(graph, [n.id for n in rest])
