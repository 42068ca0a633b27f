"""Recognise the indexer of sparse attention: keys of its own, scored and ranked."""

from __future__ import annotations

from servesim.graph.ir import Node, TraceGraph
from servesim.graph.passes.roles import is_anchor, sinks
from servesim.graph.passes.simplify import base_name, parameters_of


def collapse_indexers(graph: TraceGraph) -> None:
    """Turn the product of queries with indexer keys into an ``indexer`` node.

    Products after it that weigh its heads are part of its epilogue.
    """
    users = graph.users()
    for node in list(graph):
        if node.target != "indexer_update":
            continue
        for i in sinks(graph, users, node.id):
            scores = graph.nodes[i]
            if not _is_product(scores):
                continue
            rows, width = scores.attrs["sizes"][0][-2:]
            batch = scores.numel // scores.shape[-1] // rows
            scores.target = "indexer"
            scores.attrs["heads"] = max(1, rows * batch // graph.rows)
            scores.attrs["head_dim"] = width
            for j in sinks(graph, users, i):
                if _is_product(graph.nodes[j]):
                    graph.nodes[j].target = "aten.mul.Tensor"


def _is_product(node: Node) -> bool:
    product = is_anchor(node) and base_name(node.target) in {"aten.bmm", "aten.mm", "aten.baddbmm"}
    return product and not parameters_of(node)
