"""Attention run window by window over one projection becomes one kernel."""

from __future__ import annotations

from collections import defaultdict

from servesim.graph.ir import Node, TraceGraph, drop, replace_inputs


def merge_windows(graph: TraceGraph) -> None:
    """Merge attentions of a layer that read the same tensors; each saw one window of the tokens."""
    groups: dict[tuple[object, ...], list[Node]] = defaultdict(list)
    for node in graph:
        if node.target == "attention":
            groups[node.layer, node.inputs[:3]].append(node)
    for first, *rest in groups.values():
        if rest:
            elements = first.attrs["heads"] * first.attrs["value_dim"]
            first.attrs["chunk"] = max(n.numel for n in (first, *rest)) // elements // graph.batch
            replace_inputs(graph, {n.id: first.id for n in rest})
            drop(graph, [n.id for n in rest])
